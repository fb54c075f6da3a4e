"""The section of training curves: what each stage logged, step by step or epoch by epoch."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from delrec_lite.report.blocks import Block, Figure, Figures, Heading, Section, Text, number
from delrec_lite.report.pictures import curve

# What a line counts by, and its time.
COUNTERS = ("step", "epoch")
OTHERS = {*COUNTERS, "seconds"}
SHOWN_OF_TEACHERS = ("loss", "ndcg@10")


def curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    """Pictures of every stage with a log."""
    blocks: list[Block] = []
    for n, (title, lines) in enumerate(logs.items()):
        unit = next((name for name in COUNTERS if name in lines[0]), "")
        figures = [
            _figure(f"curve-{n}-{place}", name, points, unit)
            for place, (name, points) in enumerate(_series(lines, unit).items())
        ]
        if figures:
            blocks += [Heading(title, _said(lines, unit)), Figures(figures)]
    return Section("training", "Training", blocks or [Text("No stage has a log.")])


def _series(lines: Sequence[Mapping[str, Any]], unit: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each figure that is a finite number, in the order of the log."""
    names = dict.fromkeys(name for line in lines for name in line if name not in OTHERS)
    if unit == "epoch":  # a teacher's: several metrics of the same curve
        names = dict.fromkeys(name for name in names if name in SHOWN_OF_TEACHERS) or names
    series = {
        name: [
            (float(line[unit]) + (unit == "step"), float(line[name]))
            for line in lines
            if _is_number(line.get(name)) and _is_number(line.get(unit))
        ]
        for name in names
    }
    return {name: points for name, points in series.items() if points}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _figure(name: str, metric: str, points: Sequence[tuple[float, float]], unit: str) -> Figure:
    is_validation = metric.startswith("valid_") or "@" in metric
    best = max(points, key=lambda point: point[1])
    said = (
        f"best {number(best[1])} after {best[0]:.0f} {unit}s"
        if is_validation
        else f"at the end {number(points[-1][1])}"
    )
    alt = f"{metric} over {len(points)} {unit}s: from {number(points[0][1])}, {said}."
    return Figure(curve(name, points, is_validation, f"{unit}s"), alt, f"{metric}: {said}")


def _said(lines: Sequence[Mapping[str, Any]], unit: str) -> str:
    """How long a stage took, by its log."""
    seconds = [line["seconds"] for line in lines if _is_number(line.get("seconds"))]
    total = (max(seconds) if unit == "epoch" else sum(seconds)) if seconds else 0
    return f"{len(lines)} {unit}s logged" + (f", {total / 60:.1f} minutes" if total else "")
