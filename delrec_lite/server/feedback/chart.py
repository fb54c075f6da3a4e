"""The picture of a report: the share of clicked items by rank, with intervals, a line for each bundle."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from delrec_lite.errors import StorageError
from delrec_lite.files import check_file, write_atomic
from delrec_lite.plots import svg
from delrec_lite.server.feedback.report import Report

MOST_RANKS = 20
_MADE = "<!-- made by delrec-lite feedback report -->\n"
_COLOURS = ("#3b6fb6", "#c8662b", "#3f8f5b", "#8a5fb0")


def chart(report: Report) -> str:
    """The report as an SVG.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for number, bundle in enumerate(report.bundles[: len(_COLOURS)]):
            shares = bundle.by_rank[:MOST_RANKS]
            ranks = [rank + 0.12 * number for rank in range(1, len(shares) + 1)]
            values = [100 * share.share for share in shares]
            below = [100 * max(0.0, share.share - share.low) for share in shares]
            above = [100 * max(0.0, share.high - share.share) for share in shares]
            label = f"{bundle.bundle}, {bundle.lists} lists"
            axes.errorbar(ranks, values, [below, above], fmt="o-", ms=3, lw=1, color=_COLOURS[number], label=label)
        axes.set_xlabel("rank")
        axes.set_ylabel(f"lists with a {report.event}, %")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        if report.bundles:
            axes.legend(frameon=False)

    return svg("feedback", 640, 320, draw)


def chart_path(path: Path) -> Path:
    """Where a picture can go: nothing is there, or an earlier one.

    Raises:
        StorageError: Something else is there.
    """
    with suppress(OSError, ValueError):
        if path.read_text(encoding="utf-8").startswith(_MADE):
            return path.resolve()
    if not path.absolute().parent.is_dir():
        raise StorageError(f"there is no folder {path.absolute().parent}", "make it, or name another --plot")
    return check_file(path, "picture of a report")


def write_chart(report: Report, path: Path) -> None:
    """Write the picture.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: Something else is at ``path``.
    """
    write_atomic(chart_path(path), _MADE + chart(report) + "\n")
