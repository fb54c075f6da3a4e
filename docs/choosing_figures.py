"""The tables of docs/choosing.md, from bench/results: which base, teacher, precision and engine."""

from typing import Any

from speed_figures import table

Report = dict[str, Any]
# Requests of a served bundle, in the words of a reader.
_WORKLOADS = {
    "cold": "a new user",
    "step": "one more item of a known user",
    "rerank": "100 candidates",
    "batch": "64 users",
}


def bases(report: Report) -> str:
    """Sizes of a base's bundle: all text tokens, and those that the catalogue needs."""
    rows = [
        (report["base"], row["quant"], f"{row['whole_bytes'] / 1e6:.0f}", f"{row['pruned_bytes'] / 1e6:.0f}")
        for row in report["rows"]
    ]
    return table(("base", "precision", "MB with all text tokens", "MB as exported"), rows)


def teachers(report: Report) -> str:
    """Teachers alone, among 15 candidates and in the whole catalogue."""
    metrics = {(row["model"], row["protocol"]): row["metrics"] for row in report["rows"]}
    models = dict.fromkeys(row["model"] for row in report["rows"])
    rows = [
        (
            model,
            f"{metrics[model, 'expected_sampled']['HR@1']:.3f}",
            f"{metrics[model, 'full']['NDCG@10']:.3f}",
        )
        for model in models
        if (model, "expected_sampled") in metrics
    ]
    return table(("teacher", "HR@1 of 15, expected", "NDCG@10 of all"), rows)


def precisions(report: Report) -> str:
    """Every precision that was measured, the smallest first."""
    rows = [
        (
            f"{row['format'].upper()} {row['quant']}",
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['p50_ms']:.0f}",
            f"{row['metrics']['expected_sampled']['HR@1']:.3f}",
        )
        for row in sorted(report["rows"], key=lambda row: float(row["bytes"]))
    ]
    return table(("precision", "MB", "ms of a new user", "HR@1 of 15, expected"), rows)


def engines(report: Report) -> str:
    """Milliseconds and memory of both engines, by kind of request."""
    bundles = [
        name for name in dict.fromkeys(r["bundle"] for r in report["results"]) if name.startswith("ml-100k-cpu ")
    ]
    rows = []
    for workload, words in _WORKLOADS.items():
        of = {r["bundle"]: r for r in report["results"] if r["workload"] == workload}
        if all(name in of for name in bundles):
            cells = [f"{of[name]['ms']['p50']:.1f} ms, {of[name]['peak_rss_bytes'] / 1e6:.0f} MB" for name in bundles]
            rows.append((words, *cells))
    return table(("request", *(name.removeprefix("ml-100k-cpu ") for name in bundles)), rows)


CHOICES = {
    "bases": ("pruning-ml-100k.json", bases),
    "other base": ("pruning-gemma-ml-100k.json", bases),
    "teacher choice": ("teachers-ml-100k.json", teachers),
    "precision choice": ("export-ml-100k.json", precisions),
    "engine choice": ("latency-epyc-2-cores.json", engines),
}
