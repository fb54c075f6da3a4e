"""The best of many scores, in numpy."""

import numpy as np

from delrec_lite.data.types import Floats, Ints


def best(scores: Floats, k: int) -> Ints:
    """Indices of the ``k`` best scores, best first; of equal ones the earlier come first.

    As a stable sort of all scores gives them, but only those that can be among the best are sorted.

    Args:
        scores: float32 ``[n]``, without nan.
        k: At least 1.

    Returns:
        int64 ``[min(k, n)]``.
    """
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    among = np.flatnonzero(scores >= least)
    order: Ints = among[np.argsort(-scores[among], kind="stable")][:k]
    return order
