"""The text features of a run's items, from the source that its recipe names."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
        DataError: The file of your own vectors does not fit.
        MissingPackageError: No torch or no transformers.
    """
    need_torch()
    import torch

    from delrec_lite.llm.item_text import ItemText, encoder_means, item_text, state_means

    base, dataset = models.base("fp32"), run.dataset
    texts = dataset.catalog.descriptions
    vectors_of: dict[str, Callable[[], Any]] = {
        "rows": lambda: None,
        "states": lambda: state_means(base, texts),
        "encoder": lambda: encoder_means(run.encoder.folder, texts),
        "file": lambda: torch.from_numpy(read_vectors(Path(run.recipe.model.item_vectors or ""), len(texts))),
    }
    sources = [vectors_of[kind]() for kind in str(run.recipe.text_features).split("+")]
    features: ItemText = item_text(base, texts, torch.from_numpy(dataset.popularity() > 0), sources)
    return features


def read_vectors(path: Path, items: int) -> Any:
    """Your own item vectors: float32 ``[items, width]``.

    Raises:
        DataError: They cannot be read, or do not fit the catalogue.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", "write it with numpy.save") from error
    if vectors.ndim != 2 or len(vectors) != items:
        raise DataError(f"{path} has the shape {vectors.shape}, not [{items}, width]", "one row for each item")
    if vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
        raise DataError(f"{path} holds NaN, infinity or no numbers", "every item needs a vector of numbers")
    return vectors.astype(np.float32)
