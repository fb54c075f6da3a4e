"""The best of many scores, in numpy."""

import numpy as np

from delrec_lite.data.types import Floats, Ints


def best(scores: Floats, k: int) -> Ints:
    """Indices of the ``k`` best scores, best first; of equal ones the earlier come first.

    As a stable sort of all scores gives them, but only those that can be among the best are sorted.

    Args:
        scores: float32 ``[n]``.
        k: At least 1.

    Returns:
        int64 ``[min(k, n)]``.
    """
    losses = -scores
    if k >= len(scores):
        return np.argsort(losses, kind="stable")
    most = np.partition(losses, k - 1)[k - 1]
    among = np.flatnonzero(~(losses > most))  # nan, which a sort puts last, is not larger
    order: Ints = among[np.argsort(losses[among], kind="stable")][:k]
    return order
