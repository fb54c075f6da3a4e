"""How items that nobody has used yet are ranked: ``python -m delrec_lite.bench.new_items RECIPE RUNS OUT``.

Each test user's item is taken out of the trained ones in turn (five folds over the catalogue) and scored by its title
alone, as ``delrec-lite catalog add`` would, against the trained rows of all others.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.data.types import Split
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.export.new_items import FOLDS, fit_new_items
from delrec_lite.export.states import training_states
from delrec_lite.files import write_whole
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.items import title_vectors
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp


@torch.no_grad()
def measure(run: Run, split: Split) -> dict[str, dict[str, float]]:
    """HR@10, NDCG@10 and median rank over the whole catalogue, by what scores the target."""
    built = run.models.trained()
    model, prompts, base = built.model, built.prompts, built.base
    some = training_states(model, prompts, run.dataset)
    titles = title_vectors(
        model.body.embed_tokens.weight[: model.vocabulary.text], run.dataset.catalog.titles, base.encode
    )
    rows, targets, length = model.head(), torch.from_numpy(split.targets), run.recipe.model.max_history
    parts = []
    for at in range(0, len(split), 16):
        windows = [window_segment(prompts, history[-length:]) for history in split.histories[at : at + 16]]
        states = read_states(model, prompts.next_prefix, windows)
        ends = np.cumsum([len(history[-length:]) for history in split.histories[at : at + 16]]) - 1
        parts.append(states[torch.from_numpy(ends)])
    states = torch.cat(parts)
    fold = torch.arange(len(rows)) % FOLDS
    guessed = torch.empty_like(rows)
    for n in range(FOLDS):
        truncate_to_context = fit_new_items(titles[fold != n], rows[fold != n], some)
        guessed[fold == n] = titles[fold == n] @ truncate_to_context[:-1] + truncate_to_context[-1]
    scores = states @ rows.T
    scored = {
        "its trained row": rows,
        "its title, as catalog add does": guessed,
        "its title's own row": model.log_scale.exp() * model.titles_out,
    }
    return {name: _figures(scores, (states * own[targets]).sum(1), split) for name, own in scored.items()}


def _figures(scores: Any, own: Any, split: Split) -> dict[str, float]:
    others = scores.clone()
    others[torch.arange(len(others)), torch.from_numpy(split.targets)] = -torch.inf
    for row, history in enumerate(split.histories):
        others[row, torch.from_numpy(history)] = -torch.inf
    ranks = 1 + (others >= own[:, None]).sum(1).cpu().numpy()
    means = {metric: round(float(per_user(ranks, metric).mean()), 4) for metric in ("HR@10", "NDCG@10")}
    return {**means, "median rank": float(np.median(ranks))}


def main() -> None:
    """Measure on all test users and write the report."""
    recipe, runs, out = sys.argv[1:4]
    run = Run(load_recipe(recipe), Path(runs), Console())
    found = measure(run, run.dataset.test())
    report = {
        **stamp(),
        "users": len(run.dataset.test()),
        "items": len(run.dataset.catalog),
        "scored by": found,
    }
    write_whole(Path(out), json.dumps(report, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
