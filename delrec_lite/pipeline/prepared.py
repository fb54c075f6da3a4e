"""What a prepared data set says of itself, and a recipe beside one that was prepared before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.data.store import load_settings
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import ConfigError


def with_own_data(recipe: Recipe) -> Recipe:
    """The recipe with what its ``data.folder`` was prepared with, in place of the keys that prepare another one.

    Raises:
        ConfigError: The recipe sets one of those keys to something else.
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
    }
    for key, value in prepared.items():
        wanted = getattr(data, key)
        if key in data.model_fields_set and wanted != value:
            raise ConfigError(
                f"data.{key} is {wanted} in the recipe, but {data.folder} was prepared with {value}",
                f"leave data.{key} out, or let `delrec-lite prepare` make the data set again with it",
            )
    return recipe.model_copy(update={"data": data.model_copy(update=prepared)})


def facts_of(dataset: Dataset, candidates: Mapping[str, CandidateSets]) -> dict[str, Any]:
    """Sizes, ``fingerprint`` of the sequences, and under ``candidates`` those of the candidate sets by split."""
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "interactions": sum(len(s) for s in dataset.sequences),
        "fingerprint": dataset.fingerprint,
        "candidates": {split: sets.fingerprint for split, sets in candidates.items()},
    }
