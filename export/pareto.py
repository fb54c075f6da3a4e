"""What a quantisation was chosen among, for the bundle's README: a table, and accuracy against latency as a picture."""

from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

from delrec_lite.quantisations import BASELINE

PICTURE = "quantisations.svg"
WIDTH, HEIGHT, MARGIN = 640, 360, 60


class QuantRow(Protocol):
    """One quantisation, measured; see ``delrec_lite.bench.quantisations.Quantised``."""

    format: str
    quant: str
    bytes: int
    p50_ms: float
    metrics: dict[str, dict[str, float]]
    top10_overlap: float
    hr1_expected: dict[str, Any]


def quant_section(rows: Sequence[QuantRow], chosen: str) -> str:
    """Markdown: the table, the chosen one marked, and the picture."""
    lines = [
        "\n## Why this quantisation\n",
        "Measured where it was exported, on validation users, expected over all candidate sets: the fastest that keeps "
        "the accuracy budget.\n",
        "| quantisation | MB | p50 ms | HR@1 of 15 | NDCG@10 of 15 "
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
    return "\n".join([*lines, f"\n![Accuracy against latency]({PICTURE})\n"])


def quant_picture(rows: Sequence[QuantRow], chosen: str) -> str:
    """SVG: latency to the right, HR@1 upwards, a dot a quantisation, its area the size of the file."""
    ms, hr1 = [row.p50_ms for row in rows], [row.metrics["expected_sampled"]["HR@1"] for row in rows]
    right, low, high = max(ms) * 1.1, min(hr1) - 0.01, max(hr1) + 0.01
    largest = max(row.bytes for row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#888">',
        f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN / 2}" fill="none" stroke="#888"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">median milliseconds of a cold request</text>',
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">HR@1 of 15</text>',
    ]
    for value, anchor in ((0.0, "middle"), (right, "end")):
        x = MARGIN + value / right * (WIDTH - 1.5 * MARGIN)
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - MARGIN + 18}" text-anchor="{anchor}">{value:.0f}</text>')
    for value in (low, high):
        y = HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 1.5 * MARGIN)
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 5:.0f}" text-anchor="end">{value:.3f}</text>')
    for row, at, accuracy in zip(rows, ms, hr1, strict=True):
        x = MARGIN + at / right * (WIDTH - 1.5 * MARGIN)
        y = HEIGHT - MARGIN - (accuracy - low) / (high - low) * (HEIGHT - 1.5 * MARGIN)
        radius = 4 + 8 * (row.bytes / largest) ** 0.5
        colour = "#d9822b" if row.quant == chosen else "#4a7fb5"
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.75"/>')
        parts.append(f'<text x="{x:.0f}" y="{y - radius - 4:.0f}" text-anchor="middle">{escape(row.quant)}</text>')
    return "\n".join([*parts, "</svg>\n"])
