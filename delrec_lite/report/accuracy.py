"""The sections on accuracy: the verdict, every model with intervals, paired tests, segments of users."""

from collections.abc import Mapping, Sequence
from typing import Any

from delrec_lite.evaluation.metrics import MORE_NAMES, NAMES
from delrec_lite.evaluation.proportions import wilson
from delrec_lite.evaluation.setting import Setting
from delrec_lite.report.blocks import Block, Cell, Section, Table, TableRow, Text, interval_cells, number, table_of

# The metrics with intervals drawn, by protocol; a table behind a line has all.
DRAWN = {
    "full": ("NDCG@10", "HR@10", "MRR"),
    "expected_sampled": ("HR@1", "NDCG@10"),
    "sampled": ("HR@1", "NDCG@10"),
}
SURE = 0.05
Report = Mapping[str, Any]


def setting_of(report: Report) -> Setting:
    """How the run was evaluated; older reports have fewer fields."""
    return Setting(**report["setting"])


def main_model(report: Report) -> str:
    """The model that the run made: the exported bundle, else the trained model."""
    models = [row["model"] for row in report["rows"]]
    made = [model for model in models if model.startswith("DELRec")]
    name: str = report.get("main") or next((m for m in made if "fused" not in m and "training" not in m), models[-1])
    return name


def rows_of(report: Report, protocol: str) -> list[dict[str, Any]]:
    """The rows of a protocol, in the order of the table."""
    return [row for row in report["rows"] if row["protocol"] == protocol]


def place_of(names: Sequence[str], name: str) -> int | None:
    """The place of a name; None where it is missing."""
    return names.index(name) if name in names else None


def columns_of(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], main: int | None
) -> list[tuple[str, list[Cell]]]:
    """A column with intervals for each metric that a row has."""
    columns = []
    for metric in metrics:
        values = [
            (row["metrics"][metric], *row["intervals"][metric]) if metric in row["metrics"] else None for row in rows
        ]
        if any(values):
            columns.append((metric, interval_cells(values, main)))
    return columns


def verdict(report: Report) -> str:
    """One sentence: the model of the run against the best other model that it was compared with."""
    main, setting = main_model(report), setting_of(report)
    protocol, metric = ("full", "NDCG@10") if rows_of(report, "full") else ("sampled", "HR@1")
    means = {row["model"]: row["metrics"][metric] for row in rows_of(report, protocol)}
    tests = [
        test
        for test in report["comparisons"]
        if (test["model"], test["protocol"], test["metric"]) == (main, protocol, metric)
        and not test["against"].startswith("DELRec")
    ]
    if main not in means or not tests:
        return ""
    best = max(tests, key=lambda test: means[test["against"]])
    found = (
        "no difference was found"
        if best["p"] > SURE
        else f"{'better' if best['difference'] > 0 else 'worse'}, and hardly by chance"
    )
    return (
        f"{metric} of the {setting.title(protocol)}: {main} {number(means[main])}, the best other model "
        f"({best['against']}) {number(means[best['against']])}; difference {best['difference']:+.4f} "
        f"({best['low']:+.4f} to {best['high']:+.4f}), p {p_value(best['p'])}: {found}."
    )


def p_value(p: float) -> str:
    """A p-value in short."""
    return "<\u00a00.0001" if p < 1e-4 else f"= {p:.2g}"


def label(setting: Setting, protocol: str, metric: str) -> str:
    """A metric under a protocol, in short: ``HR@1 of 15, expected``."""
    return setting.metric(metric, protocol) + (", expected" if protocol == "expected_sampled" else "")


def accuracy(report: Report) -> Section:
    """Every model under every protocol."""
    setting, main, blocks = setting_of(report), main_model(report), list[Block]()
    for protocol, drawn in DRAWN.items():
        rows = rows_of(report, protocol)
        if not rows:
            continue
        names = [row["model"] for row in rows]
        place = place_of(names, main)
        title = f"{setting.title(protocol)}, {rows[0]['users']:,} {setting.questions()}"
        title = title[0].upper() + title[1:]
        columns = columns_of(rows, drawn, place)
        blocks.append(table_of(f"{title}; bars are 95% intervals", names, columns, place, "model"))
        listed = [name for name in (*NAMES, *MORE_NAMES) if name in rows[0]["metrics"]]
        lines = [
            TableRow(r["model"], [Cell(number(r["metrics"][n])) for n in listed], r["model"] == main) for r in rows
        ]
        blocks.append(Table(title, ["model", *listed], lines, folded=f"All metrics: {setting.title(protocol)}"))
    blocks.append(_tests(report, setting))
    return Section("accuracy", "Accuracy by model", blocks)


def _tests(report: Report, setting: Setting) -> Table:
    rows = [
        TableRow(
            f"{test['model']} against {test['against']}",
            [
                Cell(label(setting, test["protocol"], test["metric"]), is_text=True),
                Cell(f"{test['difference']:+.4f}", f"{test['low']:+.4f} to {test['high']:+.4f}"),
                Cell(p_value(test["p"]).removeprefix("= ")),
                Cell(test["method"], is_text=True),
            ],
        )
        for test in report["comparisons"]
    ]
    head = ["models", "metric", "difference", "p", "test"]
    return Table("Paired tests, user by user", head, rows, folded=f"{len(rows)} paired tests")


def segments(report: Report) -> Section:
    """Users with short and long histories, next items seen rarely and often."""
    setting, rows = setting_of(report), report["segments"]
    segment_names = list(dict.fromkeys(row["segment"] for row in rows))
    names = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["segment"]): row for row in rows}
    blocks: list[Block] = [Text("The bounds are the lower quartiles over the test users. Intervals are Wilson's.")]
    for key in dict.fromkeys(k for row in rows for k in row if " " in k):
        protocol, _, metric = key.partition(" ")
        ranked = [name for name in names if key in cells[name, segment_names[0]]]
        place, columns = place_of(ranked, main_model(report)), []
        for segment in segment_names:
            in_segment = [cells[name, segment] for name in ranked]
            values = [(row[key], *_bounds(row, key)) for row in in_segment]
            columns.append((f"{segment} ({in_segment[0]['users']:,})", interval_cells(values, place)))
        blocks.append(table_of(f"{metric}, {setting.title(protocol)}", ranked, columns, place, "model"))
    return Section("segments", "Segments of users", blocks)


def _bounds(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """The interval of a share of users, which older reports lack."""
    if "intervals" in row:
        low, high = row["intervals"][key]
        return low, high
    share = wilson(round(row[key] * row["users"]), row["users"])
    return share.low, share.high
