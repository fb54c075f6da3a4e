"""The results table: rows with intervals as JSON, Markdown and screen rows, and the raw ranks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.data.types import Floats
from delrec_lite.errors import DataError
from delrec_lite.evaluation.beyond import BY_KEY, Estimate
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import LIST_LENGTH, MORE_NAMES, NAMES, Ranks, per_user
from delrec_lite.evaluation.setting import PROTOCOLS, Setting
from delrec_lite.evaluation.significance import interval, paired_test
from delrec_lite.files import write_atomic

SHOWN = ("HR@1", "HR@5", "HR@10", "NDCG@10")  # what fits 80 columns; the files have all


@dataclass(frozen=True)
class Row:
    """One model under one protocol.

    Attributes:
        model: As shown.
        protocol: ``sampled``, ``full`` or ``expected_sampled`` (over all candidate sets, see ``evaluation.expected``).
        users: Number of questions of the test split, one for each user unless the data set is split by time.
        metrics: Means over users, by name; under ``full`` also those of the lists, see ``evaluation.beyond``.
        intervals: 95% intervals of ``metrics``: bootstrap over users, if ``evaluation.beyond`` names no other.
        seconds: Time to score all users once (the protocols share it).
        precision: Precision in which a torch LLM computes; empty for other models, and where it was not recorded.
    """

    model: str
    protocol: str
    users: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: float
    precision: str = ""


def protocols_of(ranks: Ranks, expected: ExpectedSampledMetrics | None) -> list[str]:
    """The protocols under which a model has metrics."""
    has_expected = expected is not None and len(ranks.full) and ranks.same_scores
    return [p for p in PROTOCOLS if p in ranks.protocols or (p == "expected_sampled" and has_expected)]


def values_of(ranks: Ranks, protocol: str, name: str, expected: ExpectedSampledMetrics | None) -> Floats:
    """A metric of each user under one of ``protocols_of``: float32 ``[users]``."""
    if protocol == "expected_sampled" and expected is not None:
        return expected.per_user(ranks.full, name)
    return per_user(ranks.of(protocol), name)


def rows_for(
    model: str,
    ranks: Ranks,
    expected: ExpectedSampledMetrics | None = None,
    of_lists: Mapping[str, Estimate] | None = None,
) -> list[Row]:
    """The rows of a model, one for each of ``protocols_of``; ``of_lists``: the metrics of its lists."""
    rows = []
    for protocol in protocols_of(ranks, expected):
        values = {name: values_of(ranks, protocol, name, expected) for name in (*NAMES, *MORE_NAMES)}
        metrics = {name: round(float(v.mean()), 5) for name, v in values.items()}
        intervals = {name: _rounded(interval(v)) for name, v in values.items()}
        if protocol == "full" and of_lists:
            metrics |= {name: round(estimate.value, 5) for name, estimate in of_lists.items()}
            intervals |= {name: _rounded((estimate.low, estimate.high)) for name, estimate in of_lists.items()}
        seconds = round(ranks.seconds, 2)
        rows.append(Row(model, protocol, ranks.users, metrics, intervals, seconds, ranks.precision))
    return rows


def _rounded(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 5), round(pair[1], 5)


def write_table(
    folder: Path,
    entries: Mapping[str, Ranks],
    pairs: Sequence[tuple[str, str]],
    setting: Setting,
    expected: ExpectedSampledMetrics | None = None,
    of_lists: Mapping[str, Mapping[str, Estimate]] | None = None,
) -> list[Row]:
    """Write ``table.json``, ``table.md``, ``ranks.json`` and ``comparisons.json``.

    Args:
        folder: Of the run.
        entries: Ranks by model, in the order of the table.
        pairs: Models to compare, first against second, user by user.
        setting: How the models were evaluated.
        expected: For the ``expected_sampled`` rows; None: no such rows.
        of_lists: Metrics of the lists, by model.
    """
    of_lists = of_lists or {}
    rows = [row for model, ranks in entries.items() for row in rows_for(model, ranks, expected, of_lists.get(model))]
    comparisons = compare_all(entries, pairs, expected)
    raw = {model: ranks.dump() for model, ranks in entries.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("table.json", [asdict(row) for row in rows]),
        ("comparisons.json", comparisons),
        ("ranks.json", raw),
    ):
        write_atomic(
            folder / name,
            json.dumps(data, indent=None if name == "ranks.json" else 2, ensure_ascii=False) + "\n",
        )
    write_atomic(folder / "table.md", markdown(rows, comparisons, setting))
    return rows


def read_ranks(folder: Path) -> dict[str, Ranks]:
    """The raw ranks that ``write_table`` wrote, by model, in the order of the table.

    Raises:
        DataError: There is no ``ranks.json``, or it cannot be read.
    """
    path = folder / "ranks.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {model: Ranks.parse(ranks) for model, ranks in entries.items()}
    except FileNotFoundError as error:
        raise DataError(f"no ranks at {path}", "`delrec-lite eval` writes them") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "remove it and evaluate again") from error


def compare_all(
    entries: Mapping[str, Ranks], pairs: Sequence[tuple[str, str]], expected: ExpectedSampledMetrics | None = None
) -> list[dict[str, Any]]:
    """Paired tests on HR@1 and NDCG@10 under the protocols that both models have."""
    comparisons = []
    for first, second in pairs:
        for protocol in (
            p for p in protocols_of(entries[first], expected) if p in protocols_of(entries[second], expected)
        ):
            for metric in ("HR@1", "NDCG@10"):
                a, b = (values_of(entries[model], protocol, metric, expected) for model in (first, second))
                test = asdict(paired_test(a, b))
                shown = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in test.items()}
                pair = {"model": first, "against": second, "protocol": protocol, "metric": metric}
                comparisons.append({**pair, **shown})
    return comparisons


def markdown(rows: Sequence[Row], comparisons: Sequence[Mapping[str, Any]], setting: Setting) -> str:
    """The table as aligned Markdown, with an interval after every mean."""
    parts = []
    for protocol in PROTOCOLS:
        chosen = [row for row in rows if row.protocol == protocol]
        if not chosen:
            continue
        cells = [["model", *NAMES]]
        for row in chosen:
            shown = [f"{row.metrics[n]:.3f} ({row.intervals[n][0]:.3f}-{row.intervals[n][1]:.3f})" for n in NAMES]
            cells.append([row.model, *shown])
        caption = f"**{setting.title(protocol)}**, {chosen[0].users} {setting.questions()}, 95% intervals"
        parts.append(f"{caption}\n\n{aligned(cells)}")
    if any(list_names := list_metric_names(rows)):
        cells = [["model", *list_names]]
        for row in _with_lists(rows):
            shown = [f"{_number(row.metrics[n])} ({'-'.join(map(_number, row.intervals[n]))})" for n in list_names]
            cells.append([row.model, *shown])
        parts.append(f"**the first {LIST_LENGTH} of the whole catalogue**, 95% intervals\n\n{aligned(cells)}")
    for protocol in ("sampled", "expected_sampled"):
        tests = [c for c in comparisons if c["metric"] == "HR@1" and c["protocol"] == protocol]
        if not tests:
            continue
        cells = [[f"HR@1, {setting.title(protocol)}", "difference", "95% interval", "p (paired)"]]
        for c in tests:
            name = f"{c['model']} against {c['against']}"
            cells.append([name, f"{c['difference']:+.3f}", f"{c['low']:+.3f} to {c['high']:+.3f}", f"{c['p']:.2g}"])
        parts.append(aligned(cells))
    return "\n\n".join(parts) + "\n"


def list_metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics of lists that all rows with lists have."""
    chosen = _with_lists(rows)
    return [name for name in BY_KEY if chosen and all(name in row.metrics for row in chosen)]


def _with_lists(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not BY_KEY.keys().isdisjoint(row.metrics)]


def _number(value: float) -> str:
    """Three digits behind the point, or three in all."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def screen_lists(rows: Sequence[Row]) -> tuple[list[list[str]], list[str]]:
    """Rows and header of the metrics of lists for ``Console.result``; none without lists."""
    shown = [BY_KEY[name] for name in list_metric_names(rows) if BY_KEY[name].column]
    lines = [[row.model, *(_number(row.metrics[metric.key]) for metric in shown)] for row in _with_lists(rows)]
    return lines, ["model", *(metric.column for metric in shown)]


def screen(rows: Sequence[Row], protocol: str) -> tuple[list[list[str]], list[str]]:
    """Rows and header for ``Console.result``: means, and the interval of the first metric."""
    lines = []
    for row in rows:
        if row.protocol == protocol:
            low, high = row.intervals["HR@1"]
            means = [f"{row.metrics[n]:.3f}" for n in SHOWN]
            lines.append([row.model, *means, f"{low:.3f}-{high:.3f}"])
    return lines, ["model", *SHOWN, "HR@1 95%"]


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first row is the header, the first column is text."""
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("| " + " | ".join(padded) + " |")
    rule = "|" + "|".join("-" * (w + 1) + (":" if n else "-") for n, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
