"""A report as one HTML page with pictures: latency, accuracy against latency, phases; nothing from elsewhere."""

from collections.abc import Sequence
from html import escape

from delrec_lite.bench.report import Report, Result, footnotes, rows

COLOURS = ("#0b6e5f", "#d9822b", "#4a7fb5", "#8a5fa8", "#a3261b", "#7d8a2e", "#5c666d")
WIDTH, ROW, LEFT = 860, 30, 250

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2327; --soft: #69737a; --line: #d8dbdd; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181b; --ink: #eceae4; --soft: #a2abb1; --line: #343c42; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
td, th { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; } svg .soft { fill: var(--soft); }
svg line, svg path { stroke: var(--line); }
li { color: var(--soft); }
"""


def as_html(report: Report) -> str:
    """The whole page."""
    cells, header = rows(report)
    table = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>delrec-lite bench</title><style>{_STYLE}</style></head><body>",
        f"<h1>delrec-lite bench</h1><p>{escape(report.created)}, {escape(report.machine['cpu'])}</p>",
        f'<div class="wide"><table><tr>{"".join(f"<th>{escape(h)}</th>" for h in header)}</tr>{table}</table></div>',
    ]
    for workload in dict.fromkeys(r.workload for r in report.results):
        some = [r for r in report.results if r.workload == workload]
        parts.append(f"<h2>{escape(workload)}: every sample, the median marked</h2>{_samples(some)}")
        if any(r.accuracy for r in some):
            parts.append(f"<h2>{escape(workload)}: accuracy against latency</h2>{_scatter(some)}")
    phased = [r for r in report.results if r.phases]
    if phased:
        parts.append(f"<h2>Where the milliseconds go</h2>{_phases(phased)}")
    notes = "".join(f"<li>{escape(line)}</li>" for line in footnotes(report))
    return "\n".join([*parts, f"<h2>Notes</h2><ul>{notes}</ul></body></html>"])


def _name(r: Result) -> str:
    return f"{r.bundle}, {r.threads} threads"


def _svg(height: float, body: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(body)}</svg>'


def _place(ms: float, low: float, high: float) -> float:
    """Logarithmic: peers are tens of times slower."""
    from math import log

    return LEFT + (WIDTH - LEFT - 30) * (log(ms) - log(low)) / max(1e-9, log(high) - log(low))


def _samples(results: Sequence[Result]) -> str:
    low = 0.9 * min(min(r.samples_ms) for r in results)
    high = 1.1 * max(max(r.samples_ms) for r in results)
    body = _axis(low, high, len(results) * ROW)
    for n, r in enumerate(sorted(results, key=lambda r: r.ms["p50"])):
        y, colour = n * ROW + 15, COLOURS[n % len(COLOURS)]
        body.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(_name(r))}</text>')
        body += [
            f'<circle cx="{_place(ms, low, high):.1f}" cy="{y}" r="3.5" fill="{colour}" fill-opacity=".35"/>'
            for ms in r.samples_ms
        ]
        x = _place(r.ms["p50"], low, high)
        body.append(f'<rect x="{x - 1.5:.1f}" y="{y - 10}" width="3" height="20" fill="{colour}"/>')
        body.append(f'<text x="{x + 6:.1f}" y="{y - 6}" class="soft">{r.ms["p50"]:.1f}</text>')
    return _svg(len(results) * ROW + 40, body)


def _axis(low: float, high: float, bottom: float) -> list[str]:
    ticks = [t for power in range(-2, 6) for t in (10.0**power, 3 * 10.0**power) if low <= t <= high]
    body = [f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - 30}" y2="{bottom}"/>']
    for t in ticks:
        x = _place(t, low, high)
        body.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}"/>')
        body.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" class="soft">{t:g} ms</text>')
    return body


def _scatter(results: Sequence[Result]) -> str:
    shown = [r for r in results if r.accuracy]
    low, high = 0.8 * min(r.ms["p50"] for r in shown), 1.3 * max(r.ms["p50"] for r in shown)
    top = max(0.05, 1.15 * max(r.accuracy["NDCG@10"] for r in shown))
    body = [*_axis(low, high, 260), f'<text x="{LEFT - 10}" y="14" text-anchor="end" class="soft">NDCG@10</text>']
    for n, r in enumerate(sorted(shown, key=lambda r: r.ms["p50"])):
        x, y = _place(r.ms["p50"], low, high), 260 - 240 * r.accuracy["NDCG@10"] / top
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{COLOURS[n % len(COLOURS)]}"/>')
        anchor = "end" if x > WIDTH - 160 else "start"
        shift = -10 if anchor == "end" else 10
        label = f"{r.bundle} {r.accuracy['NDCG@10']:.3f}"
        body.append(f'<text x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{escape(label)}</text>')
    return _svg(300, body)


def _phases(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for r in results for name in r.phases))
    most = max(sum(r.phases.values()) for r in results)
    body = []
    for n, name in enumerate(names):
        body.append(f'<rect x="{LEFT + n * 90}" y="0" width="12" height="12" fill="{COLOURS[n % len(COLOURS)]}"/>')
        body.append(f'<text x="{LEFT + n * 90 + 17}" y="11">{escape(name)}</text>')
    for n, r in enumerate(results):
        y, x = n * ROW + 30, float(LEFT)
        body.append(
            f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(f"{r.workload}, {r.bundle}")}</text>'
        )
        for place, name in enumerate(names):
            width = (WIDTH - LEFT - 90) * r.phases.get(name, 0.0) / most
            body.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{COLOURS[place % len(COLOURS)]}"/>'
            )
            x += width
        body.append(f'<text x="{x + 6:.1f}" y="{y + 14}" class="soft">{sum(r.phases.values()):.1f} ms</text>')
    return _svg(len(results) * ROW + 40, body)
