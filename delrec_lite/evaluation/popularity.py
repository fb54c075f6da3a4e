"""The popularity baseline: the same scores for every user, the counts of the training interactions."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Dataset, Floats, Ints
from delrec_lite.evaluation.protocol import Scorer


def popularity(dataset: Dataset) -> Scorer:
    """A scorer that scores every item by its count in the training part."""
    counts = dataset.popularity().astype(np.float32)

    def scores(histories: Sequence[Ints]) -> Floats:
        return np.tile(counts, (len(histories), 1))

    return scores
