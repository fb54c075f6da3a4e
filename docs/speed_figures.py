"""The tables of what machines, busy ones too, and installations take; `figures.py` writes them into the pages."""

from collections.abc import Callable, Sequence
from typing import Any

Report = dict[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lines of Markdown; the first column is text, the others are figures."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def busy(report: Report) -> str:
    """Median and 95th percentile of a request beside busy processes, in every setting of the threads."""
    ms = {(r["setting"], r["workload"], r["busy"]): r["ms"] for r in report["rows"]}
    counts = list(dict.fromkeys(r["busy"] for r in report["rows"]))
    requests = {"cold": "new user", "step": "one more item"}
    names = {
        "polite": "as many as free cores, bounded spinning (default)",
        "bounded": "a fixed number, bounded spinning",
        "default": "a fixed number, as the library spins",
    }
    rows = [
        (
            requests[workload],
            names.get(setting, setting),
            *(f"{ms[setting, workload, n]['p50']:.1f} ({ms[setting, workload, n]['p95']:.0f})" for n in counts),
        )
        for setting, workload in dict.fromkeys((r["setting"], r["workload"]) for r in report["rows"])
    ]
    header = ("request", "threads", *(f"beside {n} busy" for n in counts))
    return table(header, sorted(rows, key=lambda row: row[0]))


def machines(report: Report) -> str:
    """Training, export and demo, with this machine's instructions and without AVX512."""
    settings = report["settings"]
    rows: dict[str, list[str]] = {}
    for figures in settings.values():
        for t in figures["training"]:
            name = f"`model.precision: {t['model.precision']}`, item tokens a second"
            used = f" ({t['precision']})" if t["model.precision"] == "auto" else ""
            rows.setdefault(name, []).append(f"{t['tokens_per_second']:.0f}{used}")
        demo = figures["demo"]
        rows.setdefault("export, s", []).append(f"{demo['export_seconds']:.0f}")
        rows.setdefault("`make demo`: first recommendation, s", []).append(
            f"{demo['first_recommendation_seconds']:.0f}"
        )
        rows.setdefault("`make demo`: table of all test users, minutes", []).append(f"{demo['minutes']:.1f}")
    return table(("", *settings), [(name, *cells) for name, cells in rows.items()])


def engines(report: Report) -> str:
    """Milliseconds of every quantisation, with this machine's instructions and without AVX512."""
    cells: dict[str, list[str]] = {}
    for figures in report["settings"].values():
        for r in figures["latency"]:
            cells.setdefault(r["bundle"].split()[-1], []).append(f"{r['ms']['p50']:.1f}")
    header = [f"{word}, {name}" for name in report["settings"] for word in ("new user", "one more item")]
    return table(("quantisation", *header), [(f"`{quant}`", *row) for quant, row in cells.items()])


def installs(report: Report) -> str:
    """Seconds and gigabytes of each road."""
    rows = [
        (
            " ".join(["make", *step["make"]]),
            f"{step['seconds']:.0f}",
            f"{step['bytes'] / 1e9:.2f}",
            step["bundles"].split(":")[0],
        )
        for steps in report["roads"].values()
        for step in steps
    ]
    return table(("call", "seconds", "GB on disk", "bundles"), rows)


def million_items(report: Report) -> str:
    """A step of training by softmax and by what trains the item vectors."""
    names = {"adamw": "AdamW, all of them", "rows": "those that are read"}
    sizes = sorted({step["items"] for step in report["steps"]})
    ways = dict.fromkeys((step["softmax"], step["trains"]) for step in report["steps"])
    steps = {(step["softmax"], step["trains"], step["items"]): step for step in report["steps"]}

    def cell(step: Report | None) -> str:
        if step is None or "seconds" not in step:
            return f"left out, {step['planned_bytes'] / 1e9:.0f} GB planned" if step else "-"
        timed = sorted(step["seconds"][1:] or step["seconds"])
        return f"{timed[len(timed) // 2]:.1f} s, {step['peak_bytes'] / 1e9:.1f} GB"

    rows = [(f"`{way[0]}`", names[way[1]], *(cell(steps.get((*way, size))) for size in sizes)) for way in ways]
    return table(("softmax", "item vectors trained", *(f"{size:,} items" for size in sizes)), rows)


def losses(report: Report) -> str:
    """Accuracy of a teacher by its loss."""
    rows = [
        (
            row["loss"] + (f", rate {row['rate']:g}" if row["rate"] else ""),
            row["negatives"] or "all items",
            f"{row['NDCG@10']:.4f}",
            f"{row['HR@10']:.4f}",
            f"{row['relative']:+.1%}",
        )
        for row in report["accuracy"]
    ]
    if not rows:
        return "Not measured yet."
    return table(("loss, item vectors trained", "negatives", "NDCG@10", "HR@10", "NDCG@10 against full"), rows)


SPEED: dict[str, tuple[str, Callable[[Report], str]]] = {
    "million items": ("million-items.json", million_items),
    "losses": ("million-items.json", losses),
    "machines": ("machines.json", machines),
    "engines": ("machines.json", engines),
    "busy": ("busy.json", busy),
}
INSTALLS = {"installs": ("install.json", installs)}
