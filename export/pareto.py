"""The measured quantisations in the bundle's README: a table, and a picture of accuracy against latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from delrec_lite.console import Console
from delrec_lite.errors import MissingPackageError
from delrec_lite.evaluation.setting import Setting
from delrec_lite.plots import GREY, svg
from delrec_lite.quantisations import BASELINE

PICTURE = "quantisations.svg"
WIDTH, HEIGHT = 640, 360
CHOSEN, OTHER = "#d9822b", "#4a7fb5"


class QuantRow(Protocol):
    """A measured quantisation; see ``delrec_lite.bench.quantisations.Quantised``."""

    format: str
    quant: str
    bytes: int
    p50_ms: float
    metrics: dict[str, dict[str, float]]
    top10_overlap: float
    hr1_expected: dict[str, Any]


def write_quants(folder: Path, rows: Sequence[QuantRow], chosen: str, setting: Setting, console: Console) -> str:
    """Write the picture into ``folder``; returns Markdown for its README: the table and the picture.

    Without matplotlib the picture is left out, and ``console`` says so.
    """
    section = quant_section(rows, chosen, setting)
    try:
        (folder / PICTURE).write_text(quant_picture(rows, chosen, setting), encoding="utf-8")
    except MissingPackageError as error:
        console.say(f"  {PICTURE} is left out: {error.message}: {error.hint}")
        return section
    return f"{section}\n![Accuracy against latency]({PICTURE})\n"


def quant_section(rows: Sequence[QuantRow], chosen: str, setting: Setting) -> str:
    """Markdown: the table, with the chosen quantisation in bold."""
    lines = [
        "\n## Why this quantisation\n",
        f"Measured on the machine of the export, on {setting.questions('validation')}, expected over all candidate "
        "sets: the fastest within the accuracy budget.\n",
        f"| quantisation | MB | p50 ms | {setting.metric('HR@1')} | {setting.metric('NDCG@10')} "
        f"| HR@1 to {BASELINE}, points | first ten as {BASELINE} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = f"**{row.quant}**" if row.quant == chosen else row.quant
        lines.append(
            f"| {name} | {row.bytes / 1e6:.1f} | {row.p50_ms:.1f} | {row.metrics['expected_sampled']['HR@1']:.3f} "
            f"| {row.metrics['expected_sampled']['NDCG@10']:.3f} | {100 * row.hr1_expected['difference']:+.1f} "
            f"| {row.top10_overlap:.1%} |"
        )
    return "\n".join([*lines, ""])


def quant_picture(rows: Sequence[QuantRow], chosen: str, setting: Setting) -> str:
    """SVG: x is latency, y is HR@1, a dot for each quantisation, its area the file size.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    ms, hr1 = [row.p50_ms for row in rows], [row.metrics["expected_sampled"]["HR@1"] for row in rows]
    largest = max(row.bytes for row in rows)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for row, latency, accuracy in zip(rows, ms, hr1, strict=True):
            area = 40 + 260 * row.bytes / largest
            colour = CHOSEN if row.quant == chosen else OTHER
            axes.scatter(latency, accuracy, s=area, color=colour, alpha=0.75, gid=f"dot-{row.quant}")
            offset = (area**0.5 / 2 + 3, 0)
            axes.annotate(row.quant, (latency, accuracy), xytext=offset, textcoords="offset points", va="center")
        axes.set_xlim(0, 1.15 * max(ms))
        axes.set_ylim(min(hr1) - 0.01, max(hr1) + 0.01)
        axes.set_xlabel("median milliseconds of a cold request")
        axes.set_ylabel(setting.metric("HR@1"))
        axes.grid()

    return svg("quantisations", WIDTH, HEIGHT, draw, GREY)
