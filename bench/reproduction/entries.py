"""What `bench/results/reproduce.yaml` says of each report: its commands, its needs, and how near figures must come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from delrec_lite.errors import UsageError, did_you_mean

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "bench" / "results"
PLAN = "reproduce.yaml"


@dataclass(frozen=True)
class Tolerance:
    """How near a figure must come.

    Attributes:
        kind: ``exact``, ``within`` (the difference), ``ratio`` (one is so many times the other), or ``never``.
        size: Of the difference or the ratio.
    """

    kind: str
    size: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """From ``exact``, ``within 0.01`` or ``ratio 3``.

        Raises:
            ValueError: It is none of them.
        """
        kind, _, size = text.partition(" ")
        if kind not in ("exact", "within", "ratio", "never") or (kind in ("within", "ratio")) != bool(size):
            raise ValueError(f"{text!r} is no tolerance")
        return cls(kind, float(size or 0))

    def allows(self, committed: Any, measured: Any) -> bool:
        """Whether two figures are near enough; what is no number must be equal."""
        if self.kind == "exact" or not (_is_number(committed) and _is_number(measured)):
            return bool(committed == measured)
        if self.kind == "within":
            return bool(abs(measured - committed) <= self.size + 1e-12)
        low, high = sorted((abs(measured), abs(committed)))
        return bool(high <= low * self.size)

    def __str__(self) -> str:
        return self.kind if not self.size else f"{self.kind} {self.size:g}"


@dataclass(frozen=True)
class Entry:
    """A report, and how it is made again.

    Attributes:
        name: Its file without ``.json``.
        minutes: On two cores, about.
        commands: One after the other, in the work folder.
        figures: Tolerances by pattern of a figure's path; the first that fits counts.
        report: What the commands write, in the work folder.
        rows: Commands for one row, by pattern of its name.
        needs: ``data`` and ``packages``.
        by_hand: Why people must do it; empty otherwise.
    """

    name: str
    minutes: float
    commands: tuple[str, ...]
    figures: tuple[tuple[str, Tolerance], ...]
    report: str
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by_hand: str = ""

    def tolerance(self, path: str) -> Tolerance | None:
        """Of a figure; None if it is not compared."""
        fitting = (tolerance for pattern, tolerance in self.figures if fnmatchcase(path, pattern))
        found = next(fitting, None)
        return None if found is None or found.kind == "never" else found

    def commands_for(self, row: str) -> tuple[str, ...]:
        """The commands that measure a row, or everything if it is empty."""
        fitting = (commands for pattern, commands in self.rows if row and fnmatchcase(row, pattern))
        return next(fitting, self.commands)

    def missing(self, data: Path | None) -> str:
        """What it needs and this machine lacks; empty if it can run."""
        if self.by_hand:
            return self.by_hand
        for name in self.needs.get("data", ()):
            if data is None or not (data / name).is_dir():
                return f"it needs --data FOLDER with {name}/interactions.parquet and {name}/items.parquet"
        packages = [name for name in self.needs.get("packages", ()) if find_spec(name) is None]
        return f"it needs {', '.join(packages)}, which is not installed" if packages else ""


@dataclass(frozen=True)
class Plan:
    """All entries by name, and the shipped recipes that have no report."""

    entries: dict[str, Entry]
    not_measured: dict[str, str]

    def find(self, name: str) -> Entry:
        """The entry of a report.

        Raises:
            UsageError: There is none; says why if it is a recipe that was not measured.
        """
        name = name.removesuffix(".json")
        if name in self.entries:
            return self.entries[name]
        if name in self.not_measured:
            raise UsageError(f"{name} has no measured figures: {self.not_measured[name]}", "measure it, and commit it")
        raise UsageError(f"no report {name!r}", did_you_mean(name, self.entries))


def read_plan(results: Path = RESULTS) -> Plan:
    """The plan of a folder with reports.

    Raises:
        UsageError: There is none, as in a wheel, which holds no reports.
    """
    path = results / PLAN
    if not path.is_file():
        raise UsageError(f"no reports in {results}", "clone the repository, and run it from there")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = {name: _entry(name, facts) for name, facts in content["reports"].items()}
    return Plan(entries, content["not_measured"])


def _entry(name: str, facts: dict[str, Any]) -> Entry:
    figures = tuple((pattern, Tolerance.parse(text)) for pattern, text in facts.pop("figures").items())
    rows = tuple((pattern, tuple(commands)) for pattern, commands in facts.pop("rows", {}).items())
    commands, report = tuple(facts.pop("commands")), facts.pop("report", f"{name}.json")
    needs = {kind: tuple(names) for kind, names in facts.pop("needs", {}).items()}
    return Entry(name, commands=commands, figures=figures, report=report, rows=rows, needs=needs, **facts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
