"""Runs the commands of a report and compares what they measure with the figures in the repository."""

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from delrec_lite.bench.reproduction.entries import CHECKOUT, RESULTS, Entry, Plan
from delrec_lite.bench.reproduction.figures import Figure, compare, flatten, rows_of
from delrec_lite.console import Console
from delrec_lite.errors import DataError, DelrecError, UsageError, did_you_mean
from delrec_lite.provenance import machine

EVERYTHING = "all"


@dataclass(frozen=True)
class Reproduced:
    """A report that was made again.

    Attributes:
        name: Of the report.
        row: The only row that was compared; empty: all.
        committed_on: Machine, day and commit of the figures in the repository.
        measured_on: Those of the new ones.
        figures: All that were compared.
    """

    name: str
    row: str
    committed_on: str
    measured_on: str
    figures: list[Figure]

    @property
    def misses(self) -> list[Figure]:
        """The figures that are not near enough."""
        return [figure for figure in self.figures if not figure.holds]

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "misses": len(self.misses)}


def choose(plan: Plan, asked: str, results: Path = RESULTS) -> list[tuple[Entry, str]]:
    """The reports that are asked for, each with a row or with none.

    Args:
        plan: Of the folder.
        asked: ``all``, the name of a report, of a row, or ``REPORT/ROW``.
        results: Folder of the reports.

    Raises:
        UsageError: No such report or row, or a row of several reports.
    """
    if asked == EVERYTHING:
        return [(entry, "") for entry in plan.entries.values()]
    name, _, row = asked.partition("/")
    if row:
        entry, rows = plan.find(name), rows_in(plan.find(name), results)
        if row not in rows:
            raise UsageError(f"{name} has no row {row!r}", did_you_mean(row, rows))
        return [(entry, row)]
    if name.removesuffix(".json") in plan.entries or name in plan.not_measured:
        return [(plan.find(name), "")]
    having = [entry for entry in plan.entries.values() if name in rows_in(entry, results)]
    if len(having) > 1:
        places = ", ".join(f"{entry.name}/{name}" for entry in having)
        raise UsageError(f"several reports have a row {name!r}", f"one of {places}")
    return [(having[0], name)] if having else [(plan.find(name), "")]


def rows_in(entry: Entry, results: Path = RESULTS) -> list[str]:
    """The names of a report's rows."""
    paths = (path for path, _ in flatten(read_report(results / f"{entry.name}.json")))
    return sorted(set().union(*(rows_of(path) for path in paths if entry.tolerance(path))))


def reproduce(
    entry: Entry, row: str, work: Path, data: Path | None, console: Console, results: Path = RESULTS
) -> Reproduced:
    """Make a report again and compare it.

    Args:
        entry: Of the report.
        row: Measure and compare this row alone; empty: everything.
        work: Folder of runs and new reports; what is there from an earlier call is not computed again.
        data: Folder with data sets that cannot be fetched.
        console: Says each command.
        results: Folder of the reports in the repository.

    Raises:
        DelrecError: A command failed.
        UsageError: This machine lacks what the report needs.
    """
    if reason := entry.missing(data):
        raise UsageError(
            f"{entry.name} cannot be made here: {reason}", "see its commands: delrec-lite reproduce --list"
        )
    committed = read_report(results / f"{entry.name}.json")
    work.mkdir(parents=True, exist_ok=True)
    recipe = work / f"{entry.name}.yaml"
    if any("{recipe}" in command for command in entry.commands):
        recipe.write_text(yaml.safe_dump(committed["recipe"], sort_keys=False), encoding="utf-8")
    places = {"checkout": CHECKOUT, "data": (data or Path()).resolve(), "recipe": recipe.resolve()}
    for command in entry.commands_for(row):
        words = [word.format(**places) for word in shlex.split(command)]
        console.heading(shlex.join(words))
        done = subprocess.run(_program(words), cwd=work, stdout=sys.stderr, check=False)
        if done.returncode:
            raise DelrecError(
                f"{entry.name}: {words[0]} {words[1]} ended with {done.returncode}", "see its error above"
            )
    return compared(entry, row, work / entry.report, results)


def compared(entry: Entry, row: str, report: Path, results: Path = RESULTS) -> Reproduced:
    """Compare a report with the one in the repository.

    Raises:
        DataError: One of them cannot be read, or there is nothing to compare.
    """
    committed, measured = read_report(results / f"{entry.name}.json"), read_report(report)
    figures = compare(entry, committed, measured, row)
    if not figures:
        raise DataError(
            f"{entry.name} has no figures with a tolerance", "give them one in bench/results/reproduce.yaml"
        )
    return Reproduced(entry.name, row, made_on(committed), made_on(measured), figures)


def read_report(path: Path) -> dict[str, Any]:
    """A report.

    Raises:
        DataError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"no report at {path}: {error}", "name a report that a command wrote with --out") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no report", "name a report that a command wrote with --out")
    return content


def made_on(report: dict[str, Any]) -> str:
    """Which machine made a report, when, and at which commit."""
    facts = report.get("machine")
    known = facts if isinstance(facts, dict) else {}
    card = f", {known['gpu']}" if known.get("gpu") else ""
    cores, cpu = known.get("cores_allowed", "?"), known.get("cpu", "an unknown processor")
    return f"{cpu}, {cores} cores{card}, {str(report.get('created'))[:10]}, commit {report.get('commit')}"


def this_machine() -> str:
    """The machine that runs this."""
    facts = machine()
    return f"{facts['cpu']}, {facts['cores_allowed']} cores"


def _program(words: list[str]) -> list[str]:
    """The command in this environment, whatever PATH says."""
    if words[0] == "delrec-lite":
        return [sys.executable, "-m", "delrec_lite", *words[1:]]
    return [sys.executable, *words[1:]] if words[0] == "python" else words
