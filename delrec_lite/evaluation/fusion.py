"""Two recommenders' scores as one, and the weight at which they predict best together."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats, Ints

WEIGHTS = np.linspace(0, 1, 21)


def mix(own: Floats, others: Floats, weight: float) -> Floats:
    """Log-probabilities mixed, in the units of the first one's scores.

    Args:
        own: Scores, float32 ``[n, items]``.
        others: The other one's scores, float32 ``[n, known]``, of the first ``known`` items alone; of the rest, it is
            taken to think what the first one thinks.
        weight: The other one's, 0 to 1.

    Returns:
        float32 ``[n, items]``.
    """
    known = others.shape[1]
    mass = logsumexp(own[:, :known]) - logsumexp(others)
    out: Floats = own.astype(np.float32)
    out[:, :known] = (1 - weight) * own[:, :known] + weight * (others + mass)
    return out


def best_weight(own: Floats, others: Floats, targets: Ints | Sequence[int]) -> float:
    """The weight, in steps of 0.05, under which the targets are likeliest.

    Args:
        own: As in ``mix``.
        others: As in ``mix``.
        targets: Item indices, int64 ``[n]``.
    """
    rows = np.arange(len(targets))

    def likelihood(weight: float) -> float:
        mixed = mix(own, others, weight)
        return float((mixed[rows, targets] - logsumexp(mixed)[:, 0]).mean())

    return round(float(max(WEIGHTS, key=likelihood)), 2)


def logsumexp(scores: Floats) -> Floats:
    """Of each row: float32 ``[n, 1]``; scores less this are log-probabilities."""
    highest = scores.max(1, keepdims=True)
    out: Floats = highest + np.log(np.exp(scores - highest).sum(1, keepdims=True))
    return out
