"""`export --compare` and `--quant auto`: what each quantisation costs in accuracy, bytes and milliseconds."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints, Split
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.metrics import Ranks, per_user
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.significance import paired_test
from delrec_lite.evaluation.table import protocols_of, values_of
from delrec_lite.files import check_file, remove_files, write_atomic
from delrec_lite.machine import cores_allowed
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.quantisations import BASELINE, formats_of
from delrec_lite.runtime.manifest import bundle_files

METRICS = ("HR@1", "NDCG@10")
# Keys of the report that `export --compare` writes.
COMPARED = ("recipe", "rows", "samples_ms", "ranks")
# Half a point of HR@1.
BUDGET = 0.005


@dataclass(frozen=True)
class Quantised:
    """One quantisation.

    Attributes:
        format: ``gguf`` or ``onnx``.
        quant: As in a recipe.
        bytes: Of the model file, an ONNX graph with its weights.
        tensor_types: How many tensors have each type; of an ONNX graph, linear layers.
        p50_ms: Median of cold requests (20 items, the first ten of the catalogue), all quantisations in turn.
        metrics: ``HR@1`` and ``NDCG@10`` by protocol, all users of the split.
        top10_overlap: Mean share of the first ten that bf16 has too.
        hr1_difference: Of HR@1 over the sampled sets to bf16, with its interval and paired p.
        hr1_expected: The same, expected over all candidate sets, see ``evaluation.expected``.
    """

    format: str
    quant: str
    bytes: int
    tensor_types: dict[str, int]
    p50_ms: float
    metrics: dict[str, dict[str, float]]
    top10_overlap: float
    hr1_difference: dict[str, Any]
    hr1_expected: dict[str, Any]


@dataclass(frozen=True)
class MeasuredQuants:
    """Quantisations side by side.

    Attributes:
        rows: One a quantisation, ``BASELINE`` first.
        ranks: Of every user, by quantisation.
        samples_ms: Raw latencies, by quantisation.
        load_before: The machine's load before they were taken.
    """

    rows: list[Quantised]
    ranks: dict[str, Ranks]
    samples_ms: dict[str, list[float]]
    load_before: float | None


def compare_quants(run: Run, quants: Sequence[str], out: Path, repeats: int = 30) -> list[Quantised]:
    """Export the trained model in every quantisation, rank all test users with each, time them in turn.

    Args:
        run: Missing stages are made first.
        quants: Names; one that both formats have means the GGUF file. ``BASELINE`` is always among them.
        out: JSON file with the rows, raw ranks and samples.
        repeats: Timed requests of each.
    """
    with run.locked():
        measured = measure_quants(run, quants, run.dataset.test(), repeats)
    report = {
        **stamp(),
        "recipe": run.recipe.dump(),
        "setting": asdict(run.setting),
        "precision": run.models.precisions(),
        "users": len(run.dataset.test()),
        "rows": [asdict(row) for row in measured.rows],
        "samples_ms": measured.samples_ms,
        "load_before": measured.load_before,
        "ranks": {quant: ranks.dump() for quant, ranks in measured.ranks.items()},
    }
    write_atomic(
        check_file(out, "comparison of quantisations", COMPARED), json.dumps(report, ensure_ascii=False) + "\n"
    )
    return measured.rows


def choose_quant(
    run: Run, quants: Sequence[str], budget: float = BUDGET, repeats: int = 30
) -> tuple[str, list[Quantised]]:
    """``--quant auto``: the fastest quantisation on this machine that keeps the accuracy.

    Args:
        run: Missing stages are made first.
        quants: As for ``compare_quants``.
        budget: Most HR@1 on the validation split that it may lose to bf16, 0 to 1: among candidates, expected over
            all candidate sets, where half a point is three standard errors on MovieLens-100K; with the sampled sets
            it is less than one.
        repeats: Timed requests of each.

    Returns:
        The choice, and all that were measured.
    """
    with run.locked():
        rows = measure_quants(run, quants, run.dataset.valid(), repeats).rows
    return fastest_within(rows, quants, budget), rows


def fastest_within(rows: Sequence[Quantised], quants: Sequence[str], budget: float) -> str:
    """The fastest of ``quants`` whose HR@1 is at most ``budget`` below bf16's; the most accurate if none is."""
    choices = [row for row in rows if row.quant in quants]
    accurate = [row for row in choices if row.hr1_expected["difference"] >= -budget]
    if not accurate:
        return max(choices, key=lambda row: row.metrics["expected_sampled"]["HR@1"]).quant
    return min(accurate, key=lambda row: row.p50_ms).quant


def measure_quants(run: Run, quants: Sequence[str], split: Split, repeats: int) -> MeasuredQuants:
    """Every quantisation over the users of one split; arguments as for ``compare_quants``.

    Raises:
        UsageError: The recipe's model ranks candidates alone.
    """
    if not run.models.ranks_catalogue:
        raise UsageError(
            "quantisations are compared by the ranking of the whole catalogue; this recipe's model ranks candidates",
            "export it with one: --quant q8_0",
        )
    from delrec_lite.bench.plan import Plan
    from delrec_lite.bench.runner import bench
    from delrec_lite.runtime.recommender import Recommender

    folder = run.folder / "compare"
    _remove_bundles(folder)
    ranks: dict[str, Ranks] = {}
    tops: dict[str, Ints] = {}
    bundles: dict[str, Any] = {}
    names = list(dict.fromkeys([BASELINE, *quants]))
    candidates = run.candidates[split.name]
    for quant in names:
        target = folder / f"{quant}.delrec"
        files = ([quant], []) if formats_of(quant)[0] == "gguf" else ([], [quant])
        bundles[quant] = write_bundle(run, target, *files, gated=False)
        parts: list[Ints] = []
        with Recommender.load(bundles[quant].path, exact=True) as recommender:

            def scorer(histories: Sequence[Ints], parts: list[Ints] = parts, of: Any = recommender) -> Floats:
                scores: Floats = of.scores(histories)
                parts.append(np.argsort(-scores, axis=1)[:, :10])
                return scores

            ranks[quant] = rank_all(scorer, split, candidates, console=run.console, label=quant)
        tops[quant] = np.concatenate(parts)
    timed = bench([bundles[q].path for q in names], Plan(["cold"], [cores_allowed()], repeats), console=run.console)
    rows = []
    hr1 = {quant: per_user(ranks[quant].sampled, "HR@1") for quant in names}
    expected = run.expected(split)
    hr1_expected = {quant: expected.per_user(ranks[quant].full, "HR@1") for quant in names}
    for quant, result in zip(names, timed.results, strict=True):
        metrics = {
            protocol: {m: round(float(values_of(ranks[quant], protocol, m, expected).mean()), 5) for m in METRICS}
            for protocol in protocols_of(ranks[quant], expected)
        }
        same = [len(np.intersect1d(a, b)) / len(a) for a, b in zip(tops[quant], tops[BASELINE], strict=True)]
        rows.append(
            Quantised(
                formats_of(quant)[0],
                quant,
                bundles[quant].bytes,
                bundles[quant].tensor_types,
                result.ms["p50"],
                metrics,
                round(float(np.mean(same)), 4),
                asdict(paired_test(hr1[quant], hr1[BASELINE])),
                asdict(paired_test(hr1_expected[quant], hr1_expected[BASELINE])),
            )
        )
    _remove_bundles(folder)
    samples = {quant: result.samples_ms for quant, result in zip(names, timed.results, strict=True)}
    return MeasuredQuants(rows, ranks, samples, timed.load_before)


def _remove_bundles(folder: Path) -> None:
    """Remove the bundles of a comparison, and their folder unless something else is in it."""
    for path in folder.glob("*.delrec"):
        remove_files(path, bundle_files(path) or ())
    with suppress(OSError):
        folder.rmdir()
