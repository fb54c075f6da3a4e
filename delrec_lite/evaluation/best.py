"""The best of many scores, in numpy."""

import numpy as np

from delrec_lite.data.types import Floats, Ints

# From so many scores on, the best are looked for above a threshold that a sample of them suggests: every so many-th.
LARGE, STRIDE = 1 << 16, 32


def best(scores: Floats, k: int) -> Ints:
    """Indices of the ``k`` best scores, best first; of equal ones the earlier come first.

    As a stable sort of all scores gives them, but only those that can be among the best are sorted.

    Args:
        scores: float32 ``[n]``.
        k: At least 1.

    Returns:
        int64 ``[min(k, n)]``.
    """
    if len(scores) >= LARGE and k < len(scores) // STRIDE:
        above = _above(scores, k)
        if above is not None:
            return above[best(scores[above], k)]
    losses = -scores
    if k >= len(scores):
        return np.argsort(losses, kind="stable")
    most = np.partition(losses, k - 1)[k - 1]
    among = np.flatnonzero(~(losses > most))  # nan, which a sort puts last, is not larger
    order: Ints = among[np.argsort(losses[among], kind="stable")][:k]
    return order


def _above(scores: Floats, k: int) -> Ints | None:
    """All that reach a threshold below the k-th best; None where the sample's threshold is not below it.

    A million scores take 0.4 ms, a partition of them all 6 to 10.
    """
    sample = scores[::STRIDE]
    expected = k / STRIDE
    place = int(expected + 4 * expected**0.5) + 8
    threshold = np.partition(sample, len(sample) - place)[len(sample) - place]
    above = np.flatnonzero(scores >= threshold)
    return above if k <= len(above) < len(scores) // 2 else None
