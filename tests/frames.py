"""The ring of items of `tests.tiny` as frames, and a recipe that trains the tiny model in seconds."""

import pandas as pd

from tests.tiny import dataset

# The tiny model and short stages; `base` is the tiny base's folder.
STAGES = {
    "teacher": {"settings": {"epochs": 1, "hidden": 8, "max_length": 8}},
    "distill": {"epochs": 0.3, "tokens_per_step": 100},
    "finetune": {"epochs": 0.3, "tokens_per_step": 100, "rank": 2},
    "export": {"quant": "f16", "score_correlation": 0.5},
}


def tiny_recipe(base, name="r", **sections):
    model = {"base": str(base), "soft_tokens": 3, "max_history": 10, "precision": "fp32"}
    return {"name": name, "model": model, **STAGES, **sections}


def interactions():
    """One row an interaction, items as numbers, rows not in the order of time."""
    rows = [
        {"user_id": user, "item_id": int(item), "weight": 1.0, "datetime": pd.Timestamp(2024, 1, 1 + n)}
        for user, sequence in zip(dataset().user_ids, dataset().sequences, strict=True)
        for n, item in enumerate(sequence)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def items():
    titles = dataset().catalog.titles
    return pd.DataFrame({"item_id": range(len(titles)), "title": titles, "price": [n / 2 for n in range(len(titles))]})
