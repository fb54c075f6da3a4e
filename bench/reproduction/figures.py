"""The figures of a report by their path, and two reports compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from delrec_lite.bench.reproduction.entries import Entry

# What names an element of a list, in this order; other elements are numbered.
_NAMES = (
    *("model", "variant", "soft prompt", "workload", "bundle", "form", "format", "quant", "settings", "setting"),
    *("items", "threads", "busy", "busy_processes", "diversity", "popularity_discount", "protocol", "users"),
)


@dataclass(frozen=True)
class Figure:
    """A figure of a report, committed and measured.

    Attributes:
        path: Where it is: ``rows/SASRec,full/metrics/HR@10``.
        committed: As the repository has it.
        measured: As it is here; None if the new report lacks it.
        tolerance: In words.
        holds: Whether it is near enough.
    """

    path: str
    committed: Any
    measured: Any
    tolerance: str
    holds: bool


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All single values of a report with their paths; lists of numbers, which are samples, are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list):
        if any(isinstance(inner, Mapping) for inner in value):
            seen: dict[str, int] = {}
            for number, inner in enumerate(value):
                name = _name(inner) or str(number)
                seen[name] = seen.get(name, 0) + 1
                yield from flatten(inner, f"{path}/{name}" + (f" ({seen[name]})" if seen[name] > 1 else ""))
    else:
        yield path, value


def compare(entry: Entry, committed: Any, measured: Any, row: str = "") -> list[Figure]:
    """Every figure of a report that has a tolerance.

    Args:
        entry: Of the report.
        committed: The report in the repository.
        measured: The report that was made here.
        row: Only the figures of the row with this name.
    """
    new = dict(flatten(measured))
    figures = []
    for path, value in flatten(committed):
        tolerance = entry.tolerance(path)
        if tolerance is None or (row and row not in rows_of(path)):
            continue
        here = new.get(path)
        figures.append(Figure(path, value, here, str(tolerance), path in new and tolerance.allows(value, here)))
    return figures


def rows_of(path: str) -> set[str]:
    """The names of the row that a figure is in: ``SASRec`` and ``SASRec,full``; none of a figure beside the rows."""
    parts = path.split("/")
    if len(parts) < 3:
        return set()
    return {parts[1], parts[1].partition(",")[0]}


def _name(element: Any) -> str:
    if not isinstance(element, Mapping):
        return ""
    named = [element.get(key) for key in _NAMES]
    plain = [value for key, value in zip(_NAMES, named, strict=True) if isinstance(value, str) or key != "users"]
    return ",".join(str(v) for v in plain if isinstance(v, str | int | float) and v != "")
