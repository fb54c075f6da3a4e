"""The section on accuracy against time: of a report of bench, and of the evaluation itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from delrec_lite.report.accuracy import main_model, place_of, rows_of, setting_of
from delrec_lite.report.blocks import Block, Cell, Figure, Section, Table, TableRow, Text, number
from delrec_lite.report.pictures import scatter

# The workload that is drawn, where bench timed it: one user's request with a new history.
WORKLOAD = "cold"


def latency(report: Mapping[str, Any], bench: Mapping[str, Any]) -> Section:
    """Without a report of bench, the evaluation's own times alone."""
    blocks: list[Block] = []
    if bench:
        blocks += _of_bench(bench)
    if report:
        blocks += _of_evaluation(report)
    if not bench:
        blocks.append(
            Text(
                "These are the times of the evaluation, in batches. For the latency of single requests: delrec-lite "
                "bench BUNDLE --out bench.json, then delrec-lite report RUN --bench bench.json."
            )
        )
    return Section("latency", "Accuracy against time", blocks)


def _of_bench(bench: Mapping[str, Any]) -> list[Block]:
    measured = [r for r in bench["results"] if r["ms"] and r["accuracy"]]
    workloads = list(dict.fromkeys(r["workload"] for r in measured))
    if not workloads:
        return [Text("The report of bench has no workload with accuracy.")]
    workload = WORKLOAD if WORKLOAD in workloads else workloads[0]
    chosen = sorted((r for r in measured if r["workload"] == workload), key=lambda r: r["ms"]["p50"])
    machine = bench.get("machine", {})
    caption = (
        f"Requests of bench ({workload}), {machine.get('cpu', 'a machine that was not named')}, "
        f"{bench.get('created', 'at a time that was not noted')}"
    )
    rows = [
        TableRow(
            f"{n}. {r['bundle']}, {r['threads']} threads",
            [
                Cell(f"{r['ms']['p50']:.1f}"),
                Cell(f"{r['ms']['p95']:.1f}"),
                Cell(number(r["accuracy"]["NDCG@10"])),
                Cell(f"{r.get('artifact_bytes', 0) / 1e6:.0f}"),
                Cell(f"{r.get('peak_rss_bytes', 0) / 1e6:.0f}"),
            ],
        )
        for n, r in enumerate(chosen, 1)
    ]
    points = [(r["ms"]["p50"], r["accuracy"]["NDCG@10"]) for r in chosen]
    table = Table("The numbered points", ["bundle", "p50 ms", "p95 ms", "NDCG@10", "MB on disk", "MB in memory"], rows)
    return [_figure("bench", points, None, "p50, milliseconds a request", "NDCG@10", caption), table]


def _of_evaluation(report: Mapping[str, Any]) -> list[Block]:
    protocol = "full" if rows_of(report, "full") else "sampled"
    rows = [row for row in rows_of(report, protocol) if row["seconds"] > 0]
    if not rows:
        return []
    names, metric = [row["model"] for row in rows], "NDCG@10"
    main = place_of(names, main_model(report))
    points = [(1000 * row["seconds"] / row["users"], row["metrics"][metric]) for row in rows]
    caption = f"The evaluation: milliseconds a user in batches, {metric} of the {setting_of(report).title(protocol)}"
    cells = [
        TableRow(f"{n + 1}. {names[n]}", [Cell(f"{ms:.2f}"), Cell(number(value))], n == main)
        for n, (ms, value) in enumerate(points)
    ]
    table = Table("The numbered points", ["model", "ms a user", metric], cells)
    return [_figure("evaluation", points, main, "milliseconds a user", metric, caption), table]


def _figure(
    name: str, points: Sequence[tuple[float, float]], main: int | None, x_label: str, y_label: str, caption: str
) -> Figure:
    alt = f"{y_label} against {x_label}: the numbered points are the rows of the next table."
    return Figure(scatter(name, points, main, x_label, y_label), alt, caption)
