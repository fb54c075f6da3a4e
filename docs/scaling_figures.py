"""The tables of docs/scaling.md, and the arithmetic for a large shop; `figures.py` writes them into the page.

Every number of the arithmetic is a field of a report in bench/results times factors that its line states.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from speed_figures import table

RESULTS = Path(__file__).parents[1] / "bench" / "results"
Report = dict[str, Any]

# The shop that is computed.
USERS, ITEMS, INTERACTIONS = 10**8, 10**7, 50
# Requests of a user in a day, and how much more come in the busiest hour; assumed.
REQUESTS_A_DAY, BUSIEST = 5, 3
# Assumed; in any currency.
PRICE = 0.05
# A search in ten times the items; the time of a graph of neighbours grows about as their logarithm, which is 1.2.
INDEX_GROWTH = 2


@dataclass(frozen=True)
class Field:
    """A number in a report.

    Attributes:
        file: In bench/results.
        keys: To the number: names, and of lists what the entry has.
    """

    file: str
    keys: tuple[str | dict[str, Any], ...]

    def value(self) -> float | None:
        """The number; None where the report is not there."""
        path = RESULTS / self.file
        if not path.is_file():
            return None
        report = json.loads(path.read_text(encoding="utf-8"))
        return float(reduce(_part, self.keys, report))

    def cite(self) -> str:
        """Its file and place, as Markdown."""
        names = (f".{key}" if isinstance(key, str) else f"[{_entry(key)}]" for key in self.keys)
        link = f"[`{self.file}`](../bench/results/{self.file})" if (RESULTS / self.file).is_file() else f"`{self.file}`"
        return f"{link} `{''.join(names).lstrip('.')}`"


def _part(whole: Any, key: str | dict[str, Any]) -> Any:
    if isinstance(key, str):
        return whole[key]
    return next(entry for entry in whole if key.items() <= entry.items())


def _entry(key: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in key.items())


@dataclass(frozen=True)
class Line:
    """A line of the arithmetic.

    Attributes:
        what: Is computed.
        fields: That are measured, with their units.
        factor: What is done with them, in words.
        compute: The same as a function of their values.
        unit: Of the result.
        hours: Whether the result is in core hours, which have a price.
    """

    what: str
    fields: tuple[tuple[Field, str], ...]
    factor: str
    compute: Callable[..., float]
    unit: str
    hours: bool = False

    def cells(self) -> tuple[str, ...]:
        """Its cells in the table."""
        values = [field.value() for field, _ in self.fields]
        shown = "<br>".join(
            f"{field.cite()}: {'not measured yet' if value is None else amount(value, unit)}"
            for (field, unit), value in zip(self.fields, values, strict=True)
        )
        if None in values:
            return self.what, shown, self.factor, "-", "-"
        result = self.compute(*values)
        return (
            self.what,
            shown,
            self.factor,
            f"{short(result)} {self.unit}",
            short(result * PRICE) if self.hours else "",
        )


def amount(value: float, unit: str) -> str:
    """A value with its unit; bytes as gigabytes."""
    return (
        f"{short(value / 1e9)} GB{unit.removeprefix('bytes')}" if unit.startswith("bytes") else f"{short(value)} {unit}"
    )


def short(value: float) -> str:
    """Three digits, and thousands apart."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


# The largest catalogue and the largest log that were measured; the items are rows of the model.
MILLION, LOG = 10**6, 10**8
CATALOGUE = Field("catalogue-size.json", ("rows", {"items": MILLION, "form": "vocabulary"}))
LARGEST_LOG = Field("preparing-large.json", ("runs", {"rows": LOG}))
WITH_INDEX = Field("ann-index.json", ("rows", {"items": MILLION}))
LOADED = Field("load-workers.json", ("room for all",))
TRAINING = Field("machines.json", ("settings", "this machine", "training", {"model.precision": "auto"}))
LOGS, CATALOGUES = USERS * INTERACTIONS / LOG, ITEMS / MILLION


def _field(place: Field, *keys: str) -> Field:
    return Field(place.file, (*place.keys, *keys))


LINES = (
    Line(
        "**Preparing** the log",
        ((_field(LARGEST_LOG, "processor_seconds"), "core seconds for 10^8 interactions"),),
        f"{LOGS:.0f} times as many interactions ({INTERACTIONS} a user)",
        lambda seconds: seconds * LOGS / 3600,
        "core hours",
        hours=True,
    ),
    Line(
        "its memory",
        ((_field(LARGEST_LOG, "peak_bytes"), "bytes"),),
        "the same: what does not fit goes to the disk",
        lambda peak: peak / 1e9,
        "GB",
    ),
    Line(
        "its disk",
        ((_field(LARGEST_LOG, "bytes"), "bytes read"), (_field(LARGEST_LOG, "bytes_written_to_disk"), "bytes written")),
        f"{LOGS:.0f} times as many interactions",
        lambda read, written: (read + written) * LOGS / 1e9,
        "GB",
    ),
    Line(
        "**Training**: stage 2, one pass over one user in a hundred",
        ((_field(TRAINING, "tokens_per_second"), "interactions a second on two cores"),),
        f"{USERS // 100:,} users, {INTERACTIONS} interactions each, two cores",
        lambda speed: USERS / 100 * INTERACTIONS / speed / 3600 * 2,
        "core hours",
        hours=True,
    ),
    Line(
        "the same over all users",
        ((_field(TRAINING, "tokens_per_second"), "interactions a second on two cores"),),
        f"{USERS:,} users",
        lambda speed: USERS * INTERACTIONS / speed / 3600 * 2,
        "core hours",
        hours=True,
    ),
    Line(
        "**Items** in a bundle, on disk",
        ((_field(CATALOGUE, "bytes"), "bytes with a million items"),),
        "ten times as many items",
        lambda size: size * CATALOGUES / 1e9,
        "GB",
    ),
    Line(
        "in memory, of each machine",
        ((_field(CATALOGUE, "peak_rss_bytes"), "bytes with a million items"),),
        "ten times as many items; processes share the file's pages",
        lambda size: size * CATALOGUES / 1e9,
        "GB",
    ),
    Line(
        "**Lists for all users**, a small catalogue",
        ((Field("score.json", ("one process", "users_per_second")), "users a second by one process"),),
        f"{USERS:,} users",
        lambda speed: USERS / speed / 3600,
        "core hours",
        hours=True,
    ),
    Line(
        "every item scored",
        ((_field(CATALOGUE, "ms", "p50"), "ms a request with a million items, two threads"),),
        f"{USERS:,} users, two cores, ten times as many items",
        lambda ms: USERS * ms / 3.6e6 * 2 * CATALOGUES,
        "core hours",
        hours=True,
    ),
    Line(
        "by an item index",
        ((_field(WITH_INDEX, "threads", "1", "ms", "index", "p50"), "ms a request with a million items, one thread"),),
        f"{USERS:,} users; {INDEX_GROWTH} times as long for ten times the items",
        lambda ms: USERS * ms / 3.6e6 * INDEX_GROWTH,
        "core hours",
        hours=True,
    ),
    Line(
        "the lists, 20 items each",
        ((Field("score-ray.json", ("bytes",)), "bytes"), (Field("score-ray.json", ("local", "users")), "users")),
        f"{USERS:,} users",
        lambda size, users: size / users * USERS / 1e9,
        "GB",
    ),
    Line(
        "**Serving**, a small catalogue: cores for the busiest hour",
        ((_field(LOADED, "per_second"), "answers a second on two cores"),),
        f"{REQUESTS_A_DAY} requests a user and day, {BUSIEST} times the mean in the busiest hour",
        lambda speed: USERS * REQUESTS_A_DAY / 86400 * BUSIEST / speed * 2,
        "cores",
    ),
    Line(
        "the same, a day",
        ((_field(LOADED, "per_second"), "answers a second on two cores"),),
        "these cores, 24 hours",
        lambda speed: USERS * REQUESTS_A_DAY / 86400 * BUSIEST / speed * 2 * 24,
        "core hours",
        hours=True,
    ),
)


def arithmetic(_: Report) -> str:
    """Core hours, memory, disk and price of the large shop."""
    header = ("what", "measured", "times", "result", f"at {PRICE} a core hour")
    lines = [header, ["---", "---", "---", "---:", "---:"], *(line.cells() for line in LINES)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def scoring(report: Report) -> str:
    """Users a second and memory of `delrec-lite score`, by one process and two."""
    rows = [
        (name, f"{r['users']:,}", f"{r['seconds']:.0f}", f"{r['users_per_second']:.0f}", f"{r['peak_mb']:.0f}")
        for name, r in ((name, report[name]) for name in ("one process", "two processes", "a tenth, two processes"))
    ]
    return table(("by", "users", "seconds", "users a second", "peak MB"), rows)


def scoring_by_ray(report: Report) -> str:
    """What Ray costs and keeps, an actor killed too."""
    rows = [
        (name, f"{r['seconds']:.0f}", f"{r['users_per_second']:.0f}", same)
        for name, r, same in (
            (f"{report['workers']} processes", report["local"], ""),
            (f"{report['workers']} actors of Ray", report["by_ray"], "yes" if report["same_rows"] else "no"),
        )
    ]
    faults = [(f"{whom} killed", "", "", "yes" if r["equal"] else "no") for whom, r in report["killed"].items()]
    return table(("by", "seconds, with the start", "users a second", "same rows"), [*rows, *faults])


def preparing(report: Report) -> str:
    """Seconds and memory of `prepare --memory` by the length of the log."""
    rows = [
        (f"{r['rows']:,}", f"{r['seconds']:.0f}", f"{r['processor_seconds']:.0f}", f"{r['peak_bytes'] / 1e6:.0f}")
        for r in report["runs"]
    ]
    return table(("interactions", "seconds", "core seconds", "peak MB"), rows)


def replicas(report: Report) -> str:
    """Answers a second of one server with two models of one thread, by the clients that ask at once."""
    rows = [
        (r["clients"], r["together"], f"{r['per_second']:.1f}", f"{r['ms']['p50']:.0f}, {r['ms']['p99']:.0f}")
        for r in report["runs"]
    ]
    return table(("clients", "evaluated together, at most", "answers a second", "ms p50, p99"), rows)


SCALING: dict[str, tuple[str, Callable[[Report], str]]] = {
    "scoring": ("score.json", scoring),
    "scoring by Ray": ("score-ray.json", scoring_by_ray),
    "preparing": ("preparing-large.json", preparing),
    "replicas": ("load-workers.json", replicas),
    "arithmetic": ("load-workers.json", arithmetic),
}
