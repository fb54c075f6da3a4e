"""What pruning the vocabulary saves, and that it changes no ranking: ``python -m delrec_lite.bench.pruning``.

``python -m delrec_lite.bench.pruning RECIPE RUNS OUT [QUANT ...]`` exports a run in each quantisation with the base
model's whole vocabulary and without what nobody needs, and ranks all test users with both. A recipe whose stages have
no epochs is exported as its base model comes; what that recommends is worth nothing, but must be the same.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.untrained import Untrained
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.files import write_whole
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
        text_tokens: ``kept`` and ``of`` the base model's.
        users: Test users whose first ten were compared.
        same_top10: Share of them with the same ten in the same order.
        largest_difference: Of any score of any user.
    """

    quant: str
    whole_bytes: int
    pruned_bytes: int
    text_tokens: dict[str, int]
    users: int
    same_top10: float
    largest_difference: float


def measure_pruning(run: Run, quants: Sequence[str]) -> list[Pruning]:
    """Export and compare; missing stages are made first."""
    histories = run.dataset.test().histories
    size: dict[tuple[str, bool], int] = {}
    scores: dict[tuple[str, bool], Any] = {}
    for prune in (False, True):
        export = run.recipe.export.model_copy(update={"prune_vocab": prune, "retriever": False})
        run.recipe = run.recipe.model_copy(update={"export": export})
        target = run.folder / "pruning" / f"{prune}.delrec"
        for model in write_bundle(run, target, quants, gated=False).models:
            size[model["quant"], prune] = model["bytes"]
            with Recommender.load(target, quant=model["quant"]) as recommender:
                scores[model["quant"], prune] = recommender.scores(histories)
                told = recommender.bundle.manifest["model"]["text_tokens"]
        shutil.rmtree(target)
    rows = []
    for quant in quants:
        whole, pruned = (scores[quant, prune] for prune in (False, True))
        first, second = (np.argsort(-one, axis=1, kind="stable")[:, :10] for one in (whole, pruned))
        rows.append(
            Pruning(
                quant,
                size[quant, False],
                size[quant, True],
                told,
                len(histories),
                round(float((first == second).all(1).mean()), 5),
                round(float(np.abs(whole - pruned).max()), 5),
            )
        )
    return rows


def main(recipe: str, runs: str, out: str, *quants: str) -> None:
    """Measure and write the report."""
    asked = load_recipe(recipe)
    kind = Run if asked.distill.epochs or asked.finetune.epochs else Untrained
    run = kind(asked, Path(runs), Console("human"))
    report = {**stamp(), "base": run.recipe.model.base}
    report["rows"] = [asdict(row) for row in measure_pruning(run, quants or ("f16",))]
    write_whole(Path(out), json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
