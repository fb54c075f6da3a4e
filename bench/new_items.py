"""How items without any interaction are ranked: ``python -m delrec_lite.bench.new_items RECIPE --out FILE``.

Each test user's item is taken out of the trained ones in turn (five folds over the catalogue) and scored by its title
alone, as ``delrec-lite catalog add`` would, against the trained rows of all others.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.data.types import Split
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.export.new_items import FOLDS, fit_new_items
from delrec_lite.export.states import training_states
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.items import title_vectors
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp


@torch.no_grad()
def rank_new_items(run: Run, split: Split) -> dict[str, dict[str, float]]:
    """HR@10, NDCG@10 and median rank over the whole catalogue, by what scores the target."""
    built = run.models.trained()
    model, prompts, base = built.model, built.prompts, built.base
    titles = title_vectors(
        model.body.embed_tokens.weight[: model.vocabulary.text], run.dataset.catalog.titles, base.encode
    )
    rows, targets, length = model.head(), torch.from_numpy(split.targets), run.recipe.model.max_history
    parts = []
    for at in range(0, len(split), 16):
        histories = [history[-length:] for history in split.histories[at : at + 16]]
        states = read_states(model, prompts.next_prefix, [window_segment(prompts, history) for history in histories])
        parts.append(states[torch.from_numpy(np.cumsum([len(history) for history in histories]) - 1)])
    states = torch.cat(parts)
    scored_by = {
        "its trained row": rows,
        "its title, as catalog add does": _rows_from_titles(titles, rows, training_states(model, prompts, run.dataset)),
        "its title's own row": model.log_scale.exp() * model.titles_out,
    }
    scores = states @ rows.T
    return {
        name: _figures(scores, (states * target_rows[targets]).sum(1), split) for name, target_rows in scored_by.items()
    }


def _rows_from_titles(titles: Any, rows: Any, states: Any) -> Any:
    """Every item's row as the items of the other folds predict it: float32 ``[items, hidden]``."""
    fold = torch.arange(len(rows)) % FOLDS
    predicted = torch.empty_like(rows)
    for n in range(FOLDS):
        fitted = fit_new_items(titles[fold != n], rows[fold != n], states)
        predicted[fold == n] = titles[fold == n] @ fitted[:-1] + fitted[-1]
    return predicted


def _figures(scores: Any, target_scores: Any, split: Split) -> dict[str, float]:
    competing = scores.clone()
    competing[torch.arange(len(competing)), torch.from_numpy(split.targets)] = -torch.inf
    for row, history in enumerate(split.histories):
        competing[row, torch.from_numpy(history)] = -torch.inf
    ranks = 1 + (competing >= target_scores[:, None]).sum(1).cpu().numpy()
    means = {metric: round(float(per_user(ranks, metric).mean()), 4) for metric in ("HR@10", "NDCG@10")}
    return {**means, "median rank": float(np.median(ranks))}


def parser() -> argparse.ArgumentParser:
    """Recipe and runs."""
    options = script_parser("new_items", __doc__)
    add_recipe(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on all test users and write the report."""
    options = parser().parse_args(arguments)
    run = Run(load_recipe(options.recipe), options.runs, Console())
    figures = rank_new_items(run, run.dataset.test())
    report = {
        **stamp(),
        "users": len(run.dataset.test()),
        "items": len(run.dataset.catalog),
        "scored by": figures,
    }
    write_json(report, options.out)
    print(json.dumps(figures, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
