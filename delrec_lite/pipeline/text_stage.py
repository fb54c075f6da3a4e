"""The text features of a run's items, from the source that its recipe names."""

from pathlib import Path
from typing import TYPE_CHECKING

from delrec_lite.data.vectors import read_vectors
from delrec_lite.errors import DataError
from delrec_lite.pipeline.base import need_torch
from delrec_lite.pipeline.model_builder import ModelBuilder
from delrec_lite.pipeline.stage import Stages

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.llm.item_text import ItemText


def text_features(run: Stages, models: ModelBuilder) -> "ItemText":
    """Compute the features of ``model.item_text``, or ``rows`` for a teacher with text alone.

    Args:
        run: Its recipe, data set and encoder are used.
        models: Load the base model, in float32.

    Raises:
        DataError: The file of your own vectors does not fit, or all its vectors are the same.
        MissingPackageError: No torch or no transformers.
    """
    need_torch()
    import torch

    from delrec_lite.llm.item_text import ItemText, encoder_means, item_text, state_means

    base, dataset = models.base("fp32"), run.dataset
    texts, kind, vectors = dataset.catalog.descriptions, run.recipe.text_features, None
    if kind == "states":
        vectors = state_means(base, texts)
    elif kind == "encoder":
        vectors = encoder_means(run.encoder.folder, texts)
    elif kind == "file":
        vectors = torch.from_numpy(read_vectors(Path(run.recipe.model.item_vectors or ""), len(texts)))
    features: ItemText = item_text(base, texts, torch.from_numpy(dataset.popularity() > 0), vectors)
    if not features.features.shape[1]:
        raise DataError(
            f"the text features of all items are the same ({run.recipe.model.item_vectors or kind})",
            "they tell nothing about an item: correct them, or set model.item_text: none",
        )
    return features
