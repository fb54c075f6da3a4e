"""`tune.svg`: the search over its trials, and each setting against the figure that decides."""

from collections.abc import Sequence
from typing import Any

from delrec_lite.plots import GREY, svg
from delrec_lite.tuning.results import TuningReport
from delrec_lite.tuning.space import Dimension, Interval

COLUMNS, WIDTH, HEIGHT = 3, 280, 190
DOT, LINE = "#1f5fa8", "#d1721b"


def picture(report: TuningReport, space: Sequence[Dimension]) -> str:
    """The picture as SVG.

    Args:
        report: With at least one trial.
        space: Its dimensions have a panel each.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    done = [(number, trial) for number, trial in enumerate(report.trials, 1) if trial.value is not None]
    rows = -(-(len(space) + 1) // COLUMNS)

    def draw(figure: Any) -> None:
        figure.set_facecolor("white")
        search = figure.add_subplot(rows, COLUMNS, 1)
        values = [trial.value or 0.0 for _, trial in done]
        search.scatter([number for number, _ in done], values, s=12, color=DOT)
        best = [max(values[: at + 1]) for at in range(len(values))]
        search.step([number for number, _ in done], best, where="post", color=LINE, linewidth=1)
        ended = [number for number, trial in enumerate(report.trials, 1) if trial.value is None]
        search.plot(ended, [min(values, default=0.0)] * len(ended), "x", markersize=4, color=GREY)
        search.set_title(report.decides, fontsize=9)
        search.set_xlabel("trial (x: pruned or failed)")
        for place, dimension in enumerate(space, 2):
            panel = figure.add_subplot(rows, COLUMNS, place)
            _draw_dimension(panel, dimension, [(trial.values.get(dimension.key), trial.value) for _, trial in done])

    return svg("tune", COLUMNS * WIDTH, rows * HEIGHT, draw, "#333333")


def _draw_dimension(panel: Any, dimension: Dimension, points: Sequence[tuple[Any, Any]]) -> None:
    """One setting against the figure that decides."""
    panel.set_title(dimension.key, fontsize=9)
    if isinstance(dimension, Interval):
        panel.scatter([x for x, _ in points], [y for _, y in points], s=12, color=DOT)
        if dimension.log:
            panel.set_xscale("log")
        return
    labels = [str(value) for value in dimension.values]
    panel.scatter([labels.index(str(x)) for x, _ in points], [y for _, y in points], s=12, color=DOT)
    panel.set_xticks(range(len(labels)), labels)
