"""A report as one HTML page with pictures: latency, accuracy against latency, phases; it loads no other file."""

from collections.abc import Sequence
from html import escape
from typing import Any

from delrec_lite.bench.report import Report, Result, footnotes, table_rows
from delrec_lite.errors import MissingPackageError
from delrec_lite.plots import svg

COLOURS = (
    *("#0b6e5f", "#d9822b", "#4a7fb5", "#8a5fa8", "#a3261b", "#7d8a2e", "#8a949b", "#d16ba5", "#3fb6c6", "#c9a800"),
)
MARKERS = ("o", "s", "^")
WIDTH, ROW = 860, 34  # pixels

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
svg { width: 100%; height: auto; } svg text { fill: var(--ink); }
li { color: var(--soft); }
"""


def as_html(report: Report) -> str:
    """The page; without matplotlib a line stands in place of the pictures."""
    cells, header = table_rows(report)
    table = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>delrec-lite bench</title><style>{_STYLE}</style></head><body>",
        f"<h1>delrec-lite bench</h1><p>{escape(report.created)}, {escape(report.machine['cpu'])}</p>",
        f'<div class="wide"><table><tr>{"".join(f"<th>{escape(h)}</th>" for h in header)}</tr>{table}</table></div>',
    ]
    try:
        parts += _pictures(report)
    except MissingPackageError as error:
        parts.append(f"<p>The pictures are left out: {escape(f'{error.message}: {error.hint}')}</p>")
    notes = "".join(f"<li>{escape(line)}</li>" for line in footnotes(report))
    return "\n".join([*parts, f"<h2>Notes</h2><ul>{notes}</ul></body></html>"])


def _pictures(report: Report) -> list[str]:
    parts = []
    measured = [r for r in report.results if r.ms]
    for workload in dict.fromkeys(r.workload for r in measured):
        results, title = [r for r in measured if r.workload == workload], escape(workload)
        parts.append(f"<h2>{title}: every sample, the median marked</h2>{_samples(f'{workload} samples', results)}")
        if any(r.accuracy for r in results):
            parts.append(f"<h2>{title}: accuracy against latency</h2>{_scatter(f'{workload} accuracy', results)}")
    phased = [r for r in report.results if r.phases]
    if phased:
        parts.append(f"<h2>Where the milliseconds go</h2>{_phases(phased)}")
    return parts


def _name(r: Result) -> str:
    beside = f", {r.busy_processes} busy processes" if r.busy_processes else ""
    return f"{r.bundle}, {r.threads} threads{beside}"


def _ticks(axis: Any, low: float, high: float) -> None:
    """Milliseconds on a logarithmic axis: peers are tens of times slower."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.axes.set_xscale("log")
    axis.axes.set_xlim(low, high)
    axis.set_major_locator(LogLocator(subs=(1, 3)) if high > 10 * low else MaxNLocator(6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g} ms"))


def _samples(name: str, results: Sequence[Result]) -> str:
    """A row for each result: every sample a dot, the median a bar."""
    ordered = sorted(results, key=lambda r: r.ms["p50"])
    low = 0.9 * min(min(r.samples_ms) for r in results)
    high = 1.1 * max(max(r.samples_ms) for r in results)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for n, r in enumerate(ordered):
            colour, median = COLOURS[n % len(COLOURS)], r.ms["p50"]
            row = [n] * len(r.samples_ms)
            axes.scatter(r.samples_ms, row, s=36, color=colour, alpha=0.35, linewidth=0, gid=f"samples-{n}")
            axes.plot([median, median], [n - 0.25, n + 0.25], color=colour, linewidth=3)
            axes.annotate(
                f"{median:.1f}", (median, n - 0.25), xytext=(0, 1), textcoords="offset points", ha="center", va="bottom"
            )
        axes.set_yticks(range(len(ordered)), [_name(r) for r in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.8)
        _ticks(axes.xaxis, low, high)

    return svg(name, WIDTH, ROW * len(ordered) + 45, draw)


def _scatter(name: str, results: Sequence[Result]) -> str:
    """Accuracy upwards, latency to the right."""
    shown = sorted((r for r in results if r.accuracy), key=lambda r: r.ms["p50"])

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for n, r in enumerate(shown):
            axes.scatter(
                r.ms["p50"],
                r.accuracy["NDCG@10"],
                s=70,
                color=COLOURS[n % len(COLOURS)],
                marker=MARKERS[n // len(COLOURS) % len(MARKERS)],
                linewidth=0,
                clip_on=False,
                label=f"{r.bundle} {r.accuracy['NDCG@10']:.3f}",
            )
        axes.set_ylim(0, max(0.05, 1.15 * max(r.accuracy["NDCG@10"] for r in shown)))
        axes.set_ylabel("NDCG@10")
        axes.grid()
        figure.legend(loc="outside right upper", frameon=False)
        _ticks(axes.xaxis, 0.8 * shown[0].ms["p50"], 1.3 * shown[-1].ms["p50"])

    return svg(name, WIDTH, max(320, 18 * len(shown) + 30), draw)


def _phases(results: Sequence[Result]) -> str:
    """A bar for each result, its phases one after another."""
    names = list(dict.fromkeys(name for r in results for name in r.phases))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        places = range(len(results))
        ends = [0.0] * len(results)
        for n, name in enumerate(names):
            widths = [r.phases.get(name, 0.0) for r in results]
            axes.barh(places, widths, 0.6, left=ends, color=COLOURS[n % len(COLOURS)], label=name)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        for n, total in zip(places, ends, strict=True):
            axes.annotate(f"{total:.1f} ms", (total, n), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [f"{r.workload}, {r.bundle}" for r in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlim(0, 1.15 * max(ends))
        axes.set_xlabel("milliseconds")
        figure.legend(loc="outside upper center", ncols=max(1, min(6, len(names))), frameon=False)

    return svg("phases", WIDTH, ROW * len(results) + 75 + 15 * (len(names) // 6), draw)
