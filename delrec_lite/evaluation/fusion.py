"""Fuse the scores of a model and its teacher, and find the weight at which the fused scores predict best."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats, Ints

WEIGHTS = np.linspace(0, 1, 21)
# Of a teacher inside: by it ``mix`` ranks as the sum of both log-probabilities does, which was trained.
INSIDE_WEIGHT = 0.5


def mix(scores: Floats, teacher_scores: Floats, weight: float) -> Floats:
    """Weighted mean of log-probabilities, in the units of the model's scores.

    Args:
        scores: Of the model, float32 ``[n, items]``.
        teacher_scores: Of the first ``teacher_items`` items, float32 ``[n, teacher_items]``; the other items keep
            the model's scores.
        weight: Of the teacher, 0 to 1.

    Returns:
        float32 ``[n, items]``.
    """
    teacher_items = teacher_scores.shape[1]
    shift = logsumexp(scores[:, :teacher_items]) - logsumexp(teacher_scores)
    mixed: Floats = scores.astype(np.float32)
    mixed[:, :teacher_items] = (1 - weight) * scores[:, :teacher_items] + weight * (teacher_scores + shift)
    return mixed


def best_weight(scores: Floats, teacher_scores: Floats, targets: Ints | Sequence[int]) -> float:
    """The teacher's weight, in steps of 0.05, that gives the targets the highest likelihood.

    Args:
        scores: As in ``mix``.
        teacher_scores: As in ``mix``.
        targets: Item indices, int64 ``[n]``.
    """
    rows = np.arange(len(targets))

    def likelihood(weight: float) -> float:
        mixed = mix(scores, teacher_scores, weight)
        return float((mixed[rows, targets] - logsumexp(mixed)[:, 0]).mean())

    return round(float(max(WEIGHTS, key=likelihood)), 2)


def logsumexp(scores: Floats) -> Floats:
    """Log-sum-exp of each row, float32 ``[n, 1]``; scores minus this are log-probabilities."""
    highest = scores.max(1, keepdims=True)
    out: Floats = highest + np.log(np.exp(scores - highest).sum(1, keepdims=True))
    return out
