"""Facts of a prepared data set, and a recipe with the settings of its prepared data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.data.columns import columns_fingerprint
from delrec_lite.data.store import load_settings
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import ConfigError


def with_dataset_settings(recipe: Recipe) -> Recipe:
    """The recipe with the settings that its ``data.folder`` was prepared with, and its words if the recipe has none.

    Raises:
        ConfigError: The recipe sets one of them to another value.
        DataError: The folder holds no prepared data set.
    """
    data = recipe.data
    if data.folder is None:
        return recipe
    name, settings = load_settings(Path(data.folder))
    prepared = {
        "name": name,
        "k_core": settings.k_core,
        "candidates": settings.m,
        "seed": settings.seed,
        "split": settings.split,
        "text_columns": settings.text_columns,
        "duplicates": settings.duplicates,
        "repeats": settings.repeats,
        "item_columns": settings.item_columns,
    }
    for key, value in prepared.items():
        recipe_value = getattr(data, key)
        if key in data.model_fields_set and recipe_value not in (value, None):
            raise ConfigError(
                f"data.{key} is {recipe_value} in the recipe, but {data.folder} was prepared with {value}",
                f"leave data.{key} out, or prepare the data set again with it: `delrec-lite prepare`",
            )
    if settings.domain is not None and not {"domain", "verb"} & data.model_fields_set:
        prepared |= {"domain": settings.domain, "verb": settings.verb}
    return recipe.model_copy(update={"data": data.model_copy(update=prepared)})


def dataset_facts(dataset: Dataset, candidates: Mapping[str, CandidateSets]) -> dict[str, Any]:
    """Sizes, ``fingerprint`` of the sequences, ``candidates``, the candidate sets' fingerprints by split, and
    ``columns``, the fingerprint of the item columns, where there are any.
    """
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "interactions": dataset.interactions,
        "fingerprint": dataset.fingerprint,
        "candidates": {split: sets.fingerprint for split, sets in candidates.items()},
        **({"columns": columns_fingerprint(dataset.catalog.columns)} if dataset.catalog.columns else {}),
    }
