"""Writes the tables of performance.md from bench/results. `python docs/figures.py` writes them, `make docs` too."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "performance.md"
RESULTS = Path(__file__).parents[1] / "bench" / "results"
Report = dict[str, Any]
PROTOCOLS = ("m15", "full")


def latency(report: Report) -> str:
    """What each workload costs, by bundle and threads."""
    rows = []
    for bundle, threads in dict.fromkeys((r["bundle"], r["threads"]) for r in report["results"]):
        found = {r["workload"]: r for r in report["results"] if (r["bundle"], r["threads"]) == (bundle, threads)}
        if "step" not in found:
            continue
        ms = {name: f"{r['ms']['p50']:.1f}" for name, r in found.items()}
        batch = found["batch"]
        rows.append(
            (
                bundle,
                threads,
                f"{ms['cold']} ({found['cold']['ms']['p95']:.1f})",
                ms["rerank"],
                ms["step"],
                f"{batch['ms']['p50'] / batch['users']:.1f}",
                f"{found['load']['ms']['p50']:.0f}",
                f"{max(r['peak_rss_bytes'] for r in found.values()) / 1e6:.0f}",
                f"{found['cold']['artifact_bytes'] / 1e6:.0f}",
            )
        )
    header = ("bundle", "threads", "new user (p95)", "15 candidates", "one more item", "in a batch", "start")
    return _table((*header, "peak MB", "on disk MB"), rows)


def peers(report: Report) -> str:
    """The same questions through what else is at hand."""
    rows = []
    for r in report["results"]:
        facts = report["bundles"][r["bundle"]]
        if r["workload"] == "cold" and ("peer" in facts or r["threads"] == 2):
            rows.append(
                (
                    r["bundle"],
                    facts.get("peer", "this runtime"),
                    f"{r['tokens']:.0f}",
                    f"{r['ms']['p50']:.1f}",
                    f"{r['peak_rss_bytes'] / 1e6:.0f}",
                )
            )
    return _table(("what", "how", "tokens", "ms", "peak MB"), sorted(rows, key=lambda row: float(row[3])))


def phases(report: Report) -> str:
    """Where a request's milliseconds go."""
    rows = []
    for r in report["results"]:
        if r["workload"] in {"cold", "step"} and r["phases"] and r["threads"] == 2:
            whole = sum(r["phases"].values())
            cells = (f"{r['phases'][name]:.2f}" for name in ("match", "encode", "prefill", "sort"))
            rows.append((r["bundle"], r["workload"], *cells, f"{r['phases']['prefill'] / whole:.1%}"))
    header = ("bundle", "request", "titles to items", "items to tokens", "the model", "sorting", "the model's share")
    return _table(header, rows)


def start(report: Report) -> str:
    """Where the time goes from a process's start to its first answer."""
    names = ("start", "import", "load", "answer")
    rows = [
        (r["bundle"], *(f"{r['phases'][name]:.0f}" for name in names), f"{r['ms']['p50']:.0f}")
        for r in report["results"]
        if r["workload"] == "load" and r["threads"] == 2
    ]
    return _table(("bundle", "Python", "import", "hash and load", "first answer", "in all (p50)"), rows)


def roofline(report: Report) -> str:
    """What the machine could do at best."""
    ceilings = report["roofline"]["ceilings"]
    rows = []
    for bundle, found in report["roofline"]["bundles"].items():
        took = next(
            r["ms"]["p50"]
            for r in report["results"]
            if (r["workload"], r["bundle"], r["threads"]) == ("cold", bundle, ceilings["threads"])
        )
        work = found["work"]
        rows.append(
            (bundle, f"{work['gop']:.1f}", f"{work['gb'] * 1e3:.0f}", f"{found['floor_ms']:.1f}", f"{took:.1f}")
        )
    header = ("bundle", "billion operations", "MB read", "floor, ms", "measured, ms")
    machine = (
        f"Ceilings measured with {ceilings['threads']} threads: {ceilings['int8_gop_s']:.0f} billion int8 operations"
        f" a second, {ceilings['read_gb_s']:.0f} GB a second.\n\n"
    )
    return machine + _table(header, rows)


def precision(report: Report) -> str:
    """What each precision costs and keeps."""
    rows = []
    for r in report["rows"]:
        apart = r["hr1_difference"]
        points = (
            "-"
            if not apart["low"] and not apart["high"]
            else (f"{100 * apart['difference']:+.1f} ({100 * apart['low']:+.1f} to {100 * apart['high']:+.1f})")
        )
        hits = (f"{r['metrics'][p][m]:.3f}" for p, m in zip(PROTOCOLS, ("HR@1", "NDCG@10"), strict=True))
        size = f"{r['bytes'] / 1e6:.0f}"
        rows.append((r["format"], r["quant"], size, f"{r['p50_ms']:.0f}", *hits, points, f"{r['top10_overlap']:.0%}"))
    header = ("format", "quant", "model MB", "ms", "HR@1 of 15", "NDCG@10 of all", "HR@1 points against bf16")
    return _table((*header, "same first ten"), rows)


def server(report: Report) -> str:
    """What many clients saw."""
    rows = []
    for name in ("room for all", "too short"):
        r = report[name]
        refused = r["statuses"].get("503", 0)
        others = sum(n for status, n in r["statuses"].items() if status not in {"200", "503"})
        ms = r["ms"]
        grown = (r["rss"][-1] - r["rss"][1]) / 1e6 if len(r["rss"]) > 2 else 0.0
        rows.append(
            (
                f"{name}: {r['queue']}",
                r["clients"],
                r["statuses"]["200"],
                refused,
                others,
                r["differing"],
                r["per_second"],
                f"{ms['p50']:.0f}, {ms['p99']:.0f}",
                f"{grown:+.1f}",
            )
        )
    header = ("queue", "clients", "answered", "503", "other", "unlike one client's", "a second", "ms p50, p99")
    return _table((*header, "memory grew, MB"), rows)


def catalogue(report: Report) -> str:
    """What the number of items costs."""
    rows = [
        (
            f"{r['items']:,}",
            "rows of the model" if r["form"] == "vocabulary" else "vectors beside it",
            f"{r['ms']['p50']:.1f}",
            f"{r['load_ms']:.0f}",
            f"{r['peak_rss_bytes'] / 1e6:.0f}",
            f"{r['bytes'] / 1e6:.0f}",
        )
        for r in report["rows"]
    ]
    return _table(("items", "held as", "new user, ms", "load, ms", "peak MB", "on disk MB"), rows)


def explanations(report: Report) -> str:
    """Whether contributions are true, and what they cost."""
    test = report["test"]
    rows = [
        ("users", report["users"]),
        ("fall without the item that contributes most, nats", f"{report['top']:.3f}"),
        ("fall without a random one", f"{report['random']:.3f}"),
        ("difference, 95% interval", f"{test['difference']:.3f} ({test['low']:.3f} to {test['high']:.3f})"),
    ]
    if "cost" in report:
        cost = report["cost"]
        rows.append((f"an explanation of {cost['items of a history']} items, in requests", cost["requests' time"]))
    return _table(("what", "measured"), rows)


def new_items(report: Report) -> str:
    """How items without training rank."""
    rows = [
        (name, *(f"{found[metric]:.3f}" for metric in ("HR@10", "NDCG@10")), f"{found['median rank']:.0f}")
        for name, found in report["scored by"].items()
    ]
    return _table(("the user's next item is scored by", "HR@10", "NDCG@10", "median rank"), rows)


TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "latency": ("latency-epyc-2-cores.json", latency),
    "phases": ("latency-epyc-2-cores.json", phases),
    "start": ("latency-epyc-2-cores.json", start),
    "roofline": ("latency-epyc-2-cores.json", roofline),
    "peers": ("latency-epyc-2-cores.json", peers),
    "precision": ("export-ml-100k.json", precision),
    "server": ("load-server.json", server),
    "catalogue": ("catalogue-size.json", catalogue),
    "explanations": ("faithfulness-ml-100k.json", explanations),
    "new items": ("new-items-ml-100k.json", new_items),
}


def fill(text: str) -> str:
    """The page with every table as its report has it now; one without a report says so."""
    for name, (file, make) in TABLES.items():
        path = RESULTS / file
        if path.is_file():
            report = json.loads(path.read_text(encoding="utf-8"))
            made = f"{make(report)}\n{_origin(file, report)}"
        else:
            made = "Not measured yet."
        start, end = f"<!-- table {name} -->", f"<!-- /table {name} -->"
        if start not in text or end not in text:
            raise ValueError(f"{PAGE.name} has no place for the table {name}: {start} ... {end}")
        text = re.sub(f"{start}.*?{end}", lambda _, m=made, s=start, e=end: f"{s}\n{m}\n{e}", text, flags=re.DOTALL)
    return text


def _origin(file: str, report: Report) -> str:
    """Where a table comes from, one line."""
    parts = [f"[`{file}`](../bench/results/{file})"]
    if machine := report.get("machine"):
        parts.append(f"{machine['cpu']}, {machine['cores_allowed']} cores allowed")
    if created := report.get("created"):
        parts.append(created[:10])
    if commit := report.get("commit"):
        parts.append(f"commit {commit}")
    if load := report.get("load_before"):
        parts.append(f"load average before: {load}")
    return "<sub>" + ", ".join(parts) + "</sub>"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
