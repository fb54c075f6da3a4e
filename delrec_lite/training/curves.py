"""`curves.svg`: the figures of a stage over its steps, one panel each, from ``metrics.jsonl``."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from delrec_lite.files import write_whole

CURVES = "curves.svg"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 380, 210, 58, 30, 34, 16  # of a panel, pixels
COLUMNS = 2
LINE, FAINT, TEXT, GRID = "#1f5fa8", "#9cc0e7", "#333333", "#dddddd"
MOST_POINTS = 500

Points = list[tuple[float, float]]


def draw_curves(folder: Path, title: str = "") -> Path | None:
    """Write ``curves.svg`` beside ``metrics.jsonl``.

    Every figure has a panel: each step faint, the mean of a fiftieth of all steps around it strong; figures of a
    validation (``valid_...``) as points.

    Returns:
        The picture, or None where nothing was logged.
    """
    log = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    names = list(dict.fromkeys(name for line in lines for name in line if name not in {"step", "seconds"}))
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{TEXT}"><rect width="100%" height="100%" fill="white"/>'
    ]
    for n, name in enumerate(names):
        x, y = GAP + n % COLUMNS * (WIDTH + GAP), GAP + n // COLUMNS * (HEIGHT + GAP)
        points = [(line["step"] + 1.0, float(line[name])) for line in lines if name in line]
        label = f"{title}: {name}" if title else name
        parts.append(f'<g transform="translate({x} {y})">{_panel(label, points, lines[-1]["step"] + 1)}</g>')
    target = folder / CURVES
    write_whole(target, "\n".join([*parts, "</svg>"]) + "\n")
    return target


def _panel(label: str, points: Points, steps: int) -> str:
    low, high = _range([value for _, value in points])
    valid = "valid_" in label

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - 1) / max(1, steps - 1) * (WIDTH - LEFT - 8)
        return round(x, 1), round(HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - BOTTOM - TOP), 1)

    out = [f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{escape(label)}</text>']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = at((1, value))[1]
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y}" y2="{y}" stroke="{GRID}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.4g}</text>')
    for step, anchor in ((1, "start"), (steps, "end")):
        x = at((step, low))[0]
        out.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{step}</text>')
    middle = (LEFT + WIDTH - 8) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">steps</text>')
    if valid:
        out.append(_path([at(p) for p in points], LINE, 1.5))
        out += [f'<circle cx="{x}" cy="{y}" r="3" fill="{LINE}"/>' for x, y in map(at, points)]
    else:
        out.append(_path([at(p) for p in _thin(points)], FAINT, 1))
        out.append(_path([at(p) for p in _thin(_smooth(points))], LINE, 1.8))
    best, last = max(points, key=lambda p: p[1]), _smooth(points)[-1]
    said = f"best {best[1]:.4g} after {best[0]:.0f}" if valid else f"at the end {last[1]:.4g}"
    out.append(f'<text x="{WIDTH - 8}" y="16" text-anchor="end">{said}</text>')
    return "".join(out)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _smooth(points: Points) -> Points:
    half = len(points) // 100
    out = []
    for n, (step, _) in enumerate(points):
        near = points[max(0, n - half) : n + half + 1]
        out.append((step, sum(value for _, value in near) / len(near)))
    return out


def _thin(points: Points) -> Points:
    every = max(1, len(points) // MOST_POINTS)
    return points[::every]


def _path(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    text = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
