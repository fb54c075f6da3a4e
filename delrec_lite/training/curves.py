"""`curves.svg`: the figures of a stage over its steps, one panel each, from ``metrics.jsonl``."""

import json
from pathlib import Path
from typing import Any

from delrec_lite.console import QUIET, Console
from delrec_lite.errors import MissingPackageError
from delrec_lite.files import write_atomic
from delrec_lite.plots import svg

CURVES = "curves.svg"
WIDTH, HEIGHT = 390, 220  # of a panel, pixels
COLUMNS = 2
LINE, FAINT, TEXT = "#1f5fa8", "#9cc0e7", "#333333"
MOST_POINTS = 500

Points = list[tuple[float, float]]


def draw_curves(folder: Path, title: str = "", console: Console = QUIET) -> Path | None:
    """Write ``curves.svg`` beside ``metrics.jsonl``.

    Every figure has a panel: a faint line of all steps and a strong one of the mean over a fiftieth of the steps;
    validation figures (``valid_...``) are points.

    Returns:
        The picture, or None if nothing was logged or matplotlib is missing; the console then says so.
    """
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    names = list(dict.fromkeys(name for line in lines for name in line if name not in {"step", "seconds"}))
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)

    def draw(figure: Any) -> None:
        figure.set_facecolor("white")
        for place, name in enumerate(names, 1):
            points = [(line["step"] + 1.0, float(line[name])) for line in lines if name in line]
            panel = figure.add_subplot(rows, COLUMNS, place)
            _draw_panel(panel, name, f"{title}: {name}" if title else name, points, lines[-1]["step"] + 1)

    target = folder / CURVES
    try:
        write_atomic(target, svg("curves", COLUMNS * WIDTH, rows * HEIGHT, draw, TEXT))
    except MissingPackageError as error:
        console.say(f"  {CURVES} is left out: {error.message}: {error.hint}")
        return None
    return target


def _draw_panel(panel: Any, name: str, label: str, points: Points, steps: int) -> None:
    validated = name.startswith("valid_")
    if validated:
        panel.plot(
            *zip(*points, strict=True), color=LINE, marker="o", markersize=4, clip_on=False, gid=f"{name}-points"
        )
    else:
        panel.plot(*zip(*_thin(points), strict=True), color=FAINT, linewidth=1, gid=f"{name}-steps")
        panel.plot(*zip(*_thin(_smooth(points)), strict=True), color=LINE, linewidth=1.8, gid=f"{name}-mean")
    best, last = max(points, key=lambda p: p[1]), _smooth(points)[-1]
    panel.set_title(label, loc="left", fontsize=10, fontweight="bold")
    figure_text = f"best {best[1]:.4g} after {best[0]:.0f}" if validated else f"at the end {last[1]:.4g}"
    panel.set_title(figure_text, loc="right", fontsize=9)
    panel.set_xlabel("steps")
    panel.set_xlim(1, max(2, steps))
    panel.locator_params(axis="x", integer=True, nbins=6)
    panel.grid(axis="y")


def _smooth(points: Points) -> Points:
    half = len(points) // 100
    out = []
    for n, (step, _) in enumerate(points):
        neighbours = points[max(0, n - half) : n + half + 1]
        out.append((step, sum(value for _, value in neighbours) / len(neighbours)))
    return out


def _thin(points: Points) -> Points:
    stride = max(1, len(points) // MOST_POINTS)
    return points[::stride]
