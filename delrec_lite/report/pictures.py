"""The page's pictures, by matplotlib: training curves, and accuracy against time."""

from collections.abc import Sequence
from typing import Any

from delrec_lite.plots import GREY, svg

WIDTH, HEIGHT = 400, 210  # pixels
LINE, FAINT, MAIN = "#4a7fb5", "#9cc0e7", "#d9822b"
MOST_POINTS = 250
# With fewer points each is drawn, and no mean.
FEW = 40

Points = Sequence[tuple[float, float]]


def curve(name: str, points: Points, is_validation: bool, unit: str) -> str:
    """A figure over the steps: all of them faint, their running mean strong; or the points of validations.

    Args:
        name: Of the picture, unique on its page.
        points: Step and value.
        is_validation: They are few, and each was measured over all validation users.
        unit: Of the horizontal axis.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        if len(points) < FEW or is_validation:
            colour = MAIN if is_validation else LINE
            axes.plot(*zip(*thinned(points), strict=True), color=colour, marker="o", markersize=4, clip_on=False)
        else:
            axes.plot(*zip(*thinned(points), strict=True), color=FAINT, linewidth=1)
            axes.plot(*zip(*thinned(running_mean(points)), strict=True), color=LINE, linewidth=1.8)
        axes.set_xlabel(unit)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.grid(axis="y")

    return svg(name, WIDTH, HEIGHT, draw)


def scatter(name: str, points: Points, main: int | None, x_label: str, y_label: str) -> str:
    """Numbered points: time to the right on a logarithmic axis, accuracy upwards.

    Args:
        name: Of the picture, unique on its page.
        points: Milliseconds and accuracy; the n-th has the number n, from 1.
        main: The place of the one in another colour.
        x_label: Of the horizontal axis.
        y_label: Of the other.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for n, (x, y) in enumerate(points):
            axes.scatter(x, y, s=210, color=MAIN if n == main else LINE, linewidth=0, alpha=0.85, clip_on=False)
            axes.annotate(str(n + 1), (x, y), ha="center", va="center", fontsize=9, color="#ffffff", gid=f"label-{n}")
        axes.set_xscale("log")
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high > 10 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        bottom, top = min(y for _, y in points), max(y for _, y in points)
        room = 0.15 * (top - bottom) or 0.1 * abs(top) or 0.1
        axes.set_ylim(bottom - room, top + room)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=GREY)

    return svg(name, WIDTH, HEIGHT + 60, draw)


def running_mean(points: Points) -> list[tuple[float, float]]:
    """Each value as the mean over a fiftieth of all steps around it."""
    half, sums = max(1, len(points) // 100), [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    out = []
    for n, (step, _) in enumerate(points):
        first, last = max(0, n - half), min(len(points), n + half + 1)
        out.append((step, (sums[last] - sums[first]) / (last - first)))
    return out


def thinned(points: Points) -> Points:
    """At most ``MOST_POINTS`` and one more, the last among them."""
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]
