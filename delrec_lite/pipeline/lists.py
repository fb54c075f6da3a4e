"""Metrics of the lists that a run's models recommend, and what these lists are made of."""

from collections.abc import Mapping
from typing import Any

from delrec_lite.data.types import Floats, evenly
from delrec_lite.evaluation.beyond import (
    PAIRED_USERS,
    Estimate,
    list_metrics,
    most_recommended,
    popularity_shares,
)
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.metrics import LIST_LENGTH, Ranks
from delrec_lite.pipeline.run import Run

# Beside the models' names: the test users' own next items.
NEXT_ITEMS = "what test users took next"


def describe_lists(run: Run, entries: Mapping[str, Ranks]) -> tuple[dict[str, dict[str, Estimate]], dict[str, Any]]:
    """The metrics of each model's lists, and the facts of these lists for the report.

    Args:
        run: Of the models.
        entries: Ranks by model; those without lists are left out.
    """
    listed = {name: ranks for name, ranks in entries.items() if len(ranks.lists)}
    dataset, test = run.dataset, run.dataset.test()
    paired = [ranks.lists[evenly(len(ranks.lists), PAIRED_USERS)] for ranks in listed.values()]
    facts = ItemFacts.of(dataset, paired, text_vectors(run))
    titles, counts = dataset.catalog.titles, facts.counts
    shares = {name: popularity_shares(ranks.lists, counts) for name, ranks in listed.items()}
    described = {
        "length": LIST_LENGTH,
        "texts": facts.text_source,
        "categories": facts.categories.column if facts.categories else None,
        "paired_users": min(len(test), PAIRED_USERS),
        "popularity_shares": {NEXT_ITEMS: popularity_shares(test.targets, counts), **shares},
        "most_recommended": {name: most_recommended(ranks.lists, titles) for name, ranks in listed.items()},
    }
    return {name: list_metrics(ranks, test, facts) for name, ranks in listed.items()}, described


def text_vectors(run: Run) -> Floats | None:
    """The text features of the run's items, float32 ``[items, width]``; None where the recipe has none."""
    if run.recipe.text_features is None:
        return None
    from safetensors.numpy import load_file

    from delrec_lite.llm.item_text import FILE

    features: Floats = load_file(run.text().folder / FILE)["features"]
    return features
