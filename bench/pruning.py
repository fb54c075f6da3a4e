"""What pruning the vocabulary saves: ``python -m delrec_lite.bench.pruning RECIPE --out FILE``.

Exports a run in each quantisation with the base model's whole vocabulary and without the tokens that nothing here
needs, and ranks all test users with both. A recipe whose stages have no epochs is exported untrained: its
recommendations are worthless, but must be the same.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.bench.untrained import Untrained
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.runtime.recommender import Recommender


@dataclass(frozen=True)
class Pruning:
    """One quantisation with and without pruning.

    Attributes:
        quant: As in a recipe.
        whole_bytes: Of the model file with all text tokens.
        pruned_bytes: Without those that catalogue, prompts and new titles do not need.
        text_tokens: How many are ``kept``, and ``of`` how many of the base model.
        users: Test users whose first ten were compared.
        same_top10: Share of users with the same ten in the same order.
        largest_difference: Between two scores of the same item and user.
    """

    quant: str
    whole_bytes: int
    pruned_bytes: int
    text_tokens: dict[str, int]
    users: int
    same_top10: float
    largest_difference: float


def measure_pruning(run: Run, quants: Sequence[str]) -> list[Pruning]:
    """Export both vocabularies and compare them; missing stages are made first."""
    histories = run.dataset.test().histories
    size: dict[tuple[str, bool], int] = {}
    scores: dict[tuple[str, bool], Any] = {}
    for prune in (False, True):
        export = run.recipe.export.model_copy(update={"prune_vocab": prune, "retriever": False})
        run.recipe = run.recipe.model_copy(update={"export": export})
        target = run.folder / "pruning" / f"{prune}.delrec"
        for model in write_bundle(run, target, quants, gated=False).models:
            size[model["quant"], prune] = model["bytes"]
            with Recommender.load(target, quant=model["quant"], exact=True) as recommender:
                scores[model["quant"], prune] = recommender.scores(histories)
                text_tokens = recommender.bundle.manifest["model"]["text_tokens"]
        shutil.rmtree(target)
    rows = []
    for quant in quants:
        full, pruned = (scores[quant, prune] for prune in (False, True))
        first, second = (np.argsort(-matrix, axis=1, kind="stable")[:, :10] for matrix in (full, pruned))
        rows.append(
            Pruning(
                quant,
                size[quant, False],
                size[quant, True],
                text_tokens,
                len(histories),
                round(float((first == second).all(1).mean()), 5),
                round(float(np.abs(full - pruned).max()), 5),
            )
        )
    return rows


def parser() -> argparse.ArgumentParser:
    """Recipe, runs and quantisations."""
    options = script_parser("pruning", __doc__)
    add_recipe(options)
    options.add_argument("--quant", default="f16", help="quantisations with commas between them")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    recipe = load_recipe(options.recipe)
    kind = Run if recipe.distill.epochs or recipe.finetune.epochs else Untrained
    run = kind(recipe, options.runs, Console("human"))
    report = {**stamp(), "base": run.recipe.model.base}
    report["rows"] = [asdict(row) for row in measure_pruning(run, options.quant.split(","))]
    write_json(report, options.out)


if __name__ == "__main__":
    main()
