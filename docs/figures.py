"""Writes the tables of README.md and of its pages from bench/results: `python docs/figures.py`, or `make docs`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from choosing_figures import CHOICES
from scaling_figures import SCALING
from speed_figures import INSTALLS, SPEED, table

from delrec_lite.evaluation.beyond import BY_KEY
from delrec_lite.evaluation.setting import Setting
from delrec_lite.pipeline.rows import ALL_TEACHERS, POPULARITY, TRAINED
from delrec_lite.teacher_kinds.registry import TEACHERS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
Report = dict[str, Any]
PROTOCOLS = ("sampled", "full")
METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@10", "MRR")


def ranking(report: Report) -> str:
    """All models under both protocols, with intervals, and who is better than whom."""
    setting = _setting(report)
    users = f"{report['rows'][0]['users']:,} {setting.questions()}, 95% intervals"
    rows = {
        protocol: [r for r in report["rows"] if r["protocol"] == protocol]
        for protocol in ("sampled", "expected_sampled", "full")
    }
    expected = {r["model"]: _within(r, "HR@1") for r in rows["expected_sampled"]}
    sampled = [
        (r["model"], _within(r, "HR@1"), expected.get(r["model"], "-"), *(_within(r, m) for m in METRICS[1:]))
        for r in rows["sampled"]
    ]
    full = [(r["model"], *(_within(r, m) for m in METRICS)) for r in rows["full"]]
    return "\n".join(
        [
            f"**{setting.title('sampled')}**, {users}\n",
            table(("model", "HR@1", "HR@1, expected", *METRICS[1:]), sampled),
            f"**{setting.title('full')}**, {users}\n",
            table(("model", *METRICS), full),
            pairs(report),
        ]
    )


def headline(report: Report) -> str:
    """Five models that can be served: popularity, the best teacher, all teachers, the bundle, and both together."""
    rows = {(r["model"], r["protocol"]): r for r in report["rows"]}
    models = dict.fromkeys(model for model, _ in rows)
    labels = [TEACHERS[kind].label for kind in report["recipe"]["teacher"]["kind"]]
    teacher = max(labels, key=lambda label: rows[label, "expected_sampled"]["metrics"]["HR@1"])
    bundles = [model for model in models if model.startswith("DELRec (") and model != TRAINED]
    cells = []
    for model in (POPULARITY, teacher, ALL_TEACHERS, *bundles):
        means = [rows[model, p]["metrics"][m] for p, m in (("sampled", "NDCG@10"), ("full", "HR@10"))]
        cells.append((model, _within(rows[model, "expected_sampled"], "HR@1"), *(f"{mean:.3f}" for mean in means)))
    metric = _setting(report).metric
    header = ("model", f"{metric('HR@1')}, expected (95%)", metric("NDCG@10"), metric("HR@10", "full"))
    return table(header, cells)


def pairs(report: Report) -> str:
    """Differences of HR@1 among candidates, user by user: with the drawn sets, and expected over all sets."""
    comparisons: dict[tuple[str, str], dict[str, Report]] = {}
    for c in report["comparisons"]:
        if c["metric"] == "HR@1":
            comparisons.setdefault((c["model"], c["against"]), {})[c["protocol"]] = c
    rows = []
    for (model, against), by in comparisons.items():
        cells = [cell for p in ("sampled", "expected_sampled") for cell in (_points(by[p]) if p in by else ("-", "-"))]
        rows.append((f"{model} against {against}", *cells))
    header = (f"{_setting(report).metric('HR@1')}, paired", "drawn sets, points", "p", "expected, points", "p")
    return table(header, rows)


def teachers(report: Report) -> str:
    """Teachers alone: expected among the candidates, and in the whole catalogue; the new one against the others."""
    rows = {(r["model"], r["protocol"]): r for r in report["rows"]}
    sampled = (("sampled", "HR@1"), ("expected_sampled", "HR@1"), ("expected_sampled", "NDCG@10"))
    shown = (*sampled, ("full", "HR@10"), ("full", "NDCG@10"))
    models = dict.fromkeys(model for model, _ in rows)
    cells = [(model, *(_within(rows[model, p], m) for p, m in shown)) for model in models]
    metric = _setting(report).metric
    header = ("model", metric("HR@1"), f"{metric('HR@1')}, expected", f"{metric('NDCG@10')}, expected")
    return f"{table((*header, metric('HR@10', 'full'), metric('NDCG@10', 'full')), cells)}\n{pairs(report)}"


def beside(report: Report) -> str:
    """A trained model beside the same one of another library: accuracy, epochs and seconds."""
    rows = {(r["model"], r["protocol"]): r for r in report["rows"]}
    shown = (("expected_sampled", "HR@1"), ("full", "HR@10"), ("full", "NDCG@10"))
    cells = [
        (
            model,
            *(_within(rows[model, protocol], metric) for protocol, metric in shown),
            f"{facts['best_epoch']} of {facts['epochs']}",
            f"{facts['seconds']['training']:.0f}",
            f"{facts['seconds']['ranking']:.1f}",
        )
        for model, facts in report["models"].items()
    ]
    metric = _setting(report).metric
    header = ("model", f"{metric('HR@1')}, expected", metric("HR@10", "full"), metric("NDCG@10", "full"))
    return f"{table((*header, 'best epoch', 'training, s', 'ranking, s'), cells)}\n{pairs(report)}"


def segments(report: Report) -> str:
    """Users with short and long histories, with rare and frequent next items."""
    parts = []
    for metric, title in (("sampled HR@1", _setting(report).metric("HR@1")), ("full HR@10", "HR@10, whole catalogue")):
        cells = {(r["model"], r["segment"]): r for r in report["segments"] if metric in r}
        names = list(dict.fromkeys(segment for _, segment in cells))
        models = list(dict.fromkeys(model for model, _ in cells))
        header = (title, *(f"{name} ({cells[models[0], name]['users']:,})" for name in names))
        rows = [(model, *(f"{cells[model, name][metric]:.3f}" for name in names)) for model in models]
        parts.append(table(header, rows))
    return "\n".join(parts)


def beyond(report: Report) -> str:
    """What the recommended lists are like: coverage, novelty, diversity."""
    rows = [r for r in report["rows"] if r["protocol"] == "full"]
    names = [key for key in BY_KEY if all(key in r["metrics"] for r in rows)]
    if not names:
        return "Not measured yet."
    return table(("model", *names), [(r["model"], *(_within(r, name) for name in names)) for r in rows])


def ablation(report: Report) -> str:
    """What a part of the method contributes."""
    variants: dict[str, list[str]] = {}
    for protocol, metric in (("expected_sampled", "HR@1"), ("full", "NDCG@10")):
        for r in (r for r in report["rows"] if r["protocol"] == protocol):
            difference = r["difference"].get(metric)
            cells = _points(difference) if difference else ("-", "-")
            variants.setdefault(r["variant"], []).extend((f"{r['metrics'][metric]:.3f}", *cells))
    hr1 = f"{_setting(report).metric('HR@1')}, expected"
    header = ("variant", hr1, "points", "p", "NDCG@10, whole catalogue", "points", "p")
    return table(header, [(variant, *cells) for variant, cells in variants.items()])


def _setting(report: Report) -> Setting:
    """How many candidates a report's figures are over, and whether users or interactions are counted."""
    return Setting(**report["setting"])


def _within(row: Report, metric: str) -> str:
    low, high = row["intervals"][metric]
    return f"{row['metrics'][metric]:.3f} ({low:.3f}-{high:.3f})"


def _points(test: Report) -> tuple[str, str]:
    """A difference in points with its interval, and its p."""
    low, high = 100 * test["low"], 100 * test["high"]
    least = test["p"] <= 1.01e-4 and test.get("method") != "mcnemar-exact"  # of 10,000 permutations none was beyond
    return f"{100 * test['difference']:+.1f} ({low:+.1f} to {high:+.1f})", "< 0.0002" if least else f"{test['p']:.2g}"


def latency(report: Report) -> str:
    """What each workload costs, by bundle and threads."""
    rows = []
    for bundle, threads in dict.fromkeys((r["bundle"], r["threads"]) for r in report["results"]):
        results = {r["workload"]: r for r in report["results"] if (r["bundle"], r["threads"]) == (bundle, threads)}
        if "step" not in results:
            continue
        ms = {name: f"{r['ms']['p50']:.1f}" for name, r in results.items()}
        batch = results["batch"]
        rows.append(
            (
                bundle,
                threads,
                f"{ms['cold']} ({results['cold']['ms']['p95']:.1f})",
                ms["rerank"],
                ms["step"],
                f"{batch['ms']['p50'] / batch['users']:.1f}",
                f"{results['load']['ms']['p50']:.0f}",
                f"{max(r['peak_rss_bytes'] for r in results.values()) / 1e6:.0f}",
                f"{results['cold']['artifact_bytes'] / 1e6:.0f}",
            )
        )
    among = next(r["accuracy"]["candidates"] for r in report["results"] if r["workload"] == "rerank")
    header = ("bundle", "threads", "new user (p95)", f"{among} candidates", "one more item", "in a batch", "start")
    return table((*header, "peak MB", "on disk MB"), rows)


def peers(report: Report) -> str:
    """The same requests answered by alternatives."""
    rows = []
    for r in report["results"]:
        facts = report["bundles"][r["bundle"]]
        if r["workload"] == "cold" and ("peer" in facts or r["threads"] == 2):
            rows.append(
                (
                    r["bundle"],
                    facts.get("peer", "this runtime"),
                    f"{r['tokens']:.0f}",
                    f"{r['ms']['p50']:.1f}" if r["ms"] else "-",
                    f"{r['peak_rss_bytes'] / 1e6:.0f}",
                )
            )
    return table(
        ("what", "how", "tokens", "ms", "peak MB"), sorted(rows, key=lambda row: float(row[3].replace("-", "inf")))
    )


def phases(report: Report) -> str:
    """Where a request's milliseconds go."""
    rows = []
    for r in report["results"]:
        if r["workload"] in {"cold", "step"} and r["phases"] and r["threads"] == 2:
            total = sum(r["phases"].values())
            cells = (f"{r['phases'][name]:.2f}" for name in ("match", "encode", "prefill", "sort"))
            rows.append((r["bundle"], r["workload"], *cells, f"{r['phases']['prefill'] / total:.1%}"))
    header = ("bundle", "request", "titles to items", "items to tokens", "the model", "sorting", "the model's share")
    return table(header, rows)


def start(report: Report) -> str:
    """Where the time goes from a process's start to its first answer."""
    names = ("start", "import", "load", "answer")
    rows = [
        (r["bundle"], *(f"{r['phases'][name]:.0f}" for name in names), f"{r['ms']['p50']:.0f}")
        for r in report["results"]
        if r["workload"] == "load" and r["threads"] == 2
    ]
    return table(("bundle", "Python", "import", "hash and load", "first answer", "total (p50)"), rows)


def roofline(report: Report) -> str:
    """What the machine could do at best."""
    ceilings = report["roofline"]["ceilings"]
    rows = []
    for bundle, floor in report["roofline"]["bundles"].items():
        measured = next(
            r["ms"]["p50"]
            for r in report["results"]
            if (r["workload"], r["bundle"], r["threads"]) == ("cold", bundle, ceilings["threads"])
        )
        work = floor["work"]
        rows.append(
            (bundle, f"{work['gop']:.1f}", f"{work['gb'] * 1e3:.0f}", f"{floor['floor_ms']:.1f}", f"{measured:.1f}")
        )
    header = ("bundle", "billion operations", "MB read", "floor, ms", "measured, ms")
    machine = (
        f"Ceilings measured with {ceilings['threads']} threads: {ceilings['int8_gop_s']:.0f} billion int8 operations"
        f" a second, {ceilings['read_gb_s']:.0f} GB a second.\n\n"
    )
    return machine + table(header, rows)


def quantisation(report: Report) -> str:
    """What each quantisation costs and keeps."""
    rows = []
    for r in report["rows"]:
        difference = r["hr1_difference"]
        points = _points(difference)[0] if difference["low"] or difference["high"] else "-"
        expected = _points(r["hr1_expected"])[0] if r.get("hr1_expected") and points != "-" else "-"
        hits = (f"{r['metrics'][p][m]:.3f}" for p, m in zip(PROTOCOLS, ("HR@1", "NDCG@10"), strict=True))
        size = f"{r['bytes'] / 1e6:.0f}"
        same = f"{r['top10_overlap']:.0%}"
        rows.append((r["format"], r["quant"], size, f"{r['p50_ms']:.0f}", *hits, points, expected, same))
    among = _setting(report).metric
    accuracy = (among("HR@1"), among("NDCG@10", "full"), "HR@1 points against bf16")
    header = ("format", "quant", "model MB", "ms", *accuracy)
    return table((*header, "expected", "same first ten"), rows)


def server(report: Report) -> str:
    """What many clients saw."""
    rows = []
    for name in ("room for all", "too short"):
        r = report[name]
        refused = r["statuses"].get("503", 0)
        failed = sum(n for status, n in r["statuses"].items() if status not in {"200", "503"})
        ms = r["ms"]
        grown = (r["rss"][-1] - r["rss"][1]) / 1e6 if len(r["rss"]) > 2 else 0.0
        rows.append(
            (
                f"{name}: {r['queue']}",
                r["clients"],
                r["statuses"]["200"],
                refused,
                failed,
                r["differing"],
                r["per_second"],
                f"{ms['p50']:.0f}, {ms['p99']:.0f}",
                f"{grown:+.1f}",
            )
        )
    header = ("queue", "clients", "answered", "503", "other", "differing answers", "a second", "ms p50, p99")
    return table((*header, "memory grew, MB"), rows)


def together(report: Report) -> str:
    """What clients saw with waiting requests evaluated together, and each alone."""
    rows = []
    for bundle in (report, *report.get("others", ())):
        for r in bundle.get("runs", ()):
            kind = f"up to {r['together']} together" if r["together"] > 1 else "each alone"
            ms = r["ms"]
            times = f"{ms['p50']:.0f}, {ms['p99']:.0f}"
            bound = f"{r['bound_ms']:.0f}"
            rows.append((bundle["bundle"]["quant"], r["clients"], kind, r["per_second"], times, bound, r["differing"]))
    if not rows:
        return "Not measured yet."
    header = ("bundle", "clients", "waiting requests", "a second", "ms p50, p99", "longest by the queue", "differing")
    return table(header, sorted(rows, key=lambda row: (row[0], -row[1], row[2])))


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
    return table(("items", "stored as", "new user, ms", "load, ms", "peak MB", "on disk MB"), rows)


def explanations(report: Report) -> str:
    """Whether explanations are faithful, and their cost."""
    test = report["test"]
    rows = [
        ("users", report["users"]),
        ("decrease in log-probability without the top item, nats", f"{report['top']:.3f}"),
        ("decrease in log-probability without a random item, nats", f"{report['random']:.3f}"),
        ("difference, 95% interval", f"{test['difference']:.3f} ({test['low']:.3f} to {test['high']:.3f})"),
    ]
    if "cost" in report:
        cost = report["cost"]
        rows.append((f"an explanation of {cost['items of a history']} items, in requests", cost["requests' time"]))
    return table(("what", "measured"), rows)


def new_items(report: Report) -> str:
    """How items without training rank."""
    rows = [
        (name, *(f"{figures[metric]:.3f}" for metric in ("HR@10", "NDCG@10")), f"{figures['median rank']:.0f}")
        for name, figures in report["scored by"].items()
    ]
    return table(("the user's next item is scored by", "HR@10", "NDCG@10", "median rank"), rows)


ACCURACY: dict[str, tuple[str, Callable[[Report], str]]] = {
    f"{name} {data}": (f"accuracy-{data}.json", make)
    for data in ("ml-100k", "steam", "beauty")
    for name, make in (("ranking", ranking), ("segments", segments), ("lists", beyond))
}
TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "latency": ("latency-epyc-2-cores.json", latency),
    "phases": ("latency-epyc-2-cores.json", phases),
    "start": ("latency-epyc-2-cores.json", start),
    "roofline": ("latency-epyc-2-cores.json", roofline),
    "peers": ("latency-epyc-2-cores.json", peers),
    "quantisations": ("export-ml-100k.json", quantisation),
    "server": ("load-server.json", server),
    "together": ("load-server.json", together),
    "catalogue": ("catalogue-size.json", catalogue),
    "explanations": ("faithfulness-ml-100k.json", explanations),
    "new items": ("new-items-ml-100k.json", new_items),
}


PAGES = {
    ROOT / "README.md": {"headline": ("accuracy-ml-100k.json", headline)},
    ROOT / "docs" / "accuracy.md": {
        **ACCURACY,
        "ablation": ("ablation-ml-100k.json", ablation),
        "forms": ("ablation-forms-ml-100k.json", ablation),
    },
    ROOT / "docs" / "performance.md": {**TABLES, **SPEED},
    ROOT / "docs" / "choosing.md": CHOICES,
    ROOT / "docs" / "install.md": INSTALLS,
    ROOT / "docs" / "scaling.md": SCALING,
    ROOT / "docs" / "teachers.md": {
        "teachers": ("teachers-ml-100k.json", teachers),
        "rectools": ("rectools.json", beside),
    },
}


def fill(page: Path) -> str:
    """The page with every table as its report has it now; one without a report says so."""
    text = page.read_text(encoding="utf-8")
    up = "" if page.parent == ROOT else "../"
    for name, (file, make) in PAGES[page].items():
        path = RESULTS / file
        if path.is_file():
            report = json.loads(path.read_text(encoding="utf-8"))
            filled = f"{make(report)}\n{_origin(file, report, up)}"
        else:
            filled = "Not measured yet."
        start, end = f"<!-- table {name} -->", f"<!-- /table {name} -->"
        if start not in text or end not in text:
            raise ValueError(f"{page.name} has no place for the table {name}: {start} ... {end}")
        text = re.sub(f"{start}.*?{end}", lambda _, t=filled, s=start, e=end: f"{s}\n{t}\n{e}", text, flags=re.DOTALL)
    return text


def _origin(file: str, report: Report, up: str) -> str:
    """Where a table comes from, one line."""
    parts = [f"[`{file}`]({up}bench/results/{file})"]
    if machine := report.get("machine"):
        parts.append(f"{machine['cpu']}, {machine['cores_allowed']} cores allowed")
    if created := report.get("created"):
        parts.append(created[:10])
    if commit := report.get("commit"):
        parts.append(f"commit {commit}")
    if load := report.get("load_before"):
        parts.append(f"load average before: {load}")
    return "<sub>" + ", ".join(parts) + "</sub>"


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(fill(page), encoding="utf-8")


if __name__ == "__main__":
    main()
