"""An exact softmax over the catalogue in blocks of items: no matrix of all scores is ever in memory.

As in Cut Cross-Entropy (Wijmans et al., 2025, arXiv 2411.09009), only sums over a block remain from the forward pass,
and the backward pass computes the block's scores again. Its kernels need Triton, so a CUDA card, and know no soft
targets; this is plain torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from delrec_lite.softmax.parts import block_size

# First item and end of a block to a teacher's log-probabilities of its items: float32 ``[n, block]``.
LogProbs = Callable[[int, int], Any]


@dataclass(frozen=True)
class Sums:
    """Sums over the catalogue for each position, with gradients, float32 ``[n]``.

    Attributes:
        logsumexp: Of the scores.
        total: Of the scores themselves.
        entropy: Of ``p log p`` with the teacher's p; 0 without a teacher.
        expected: Of ``p`` times the score.
        joint: Log-sum-exp of the scores plus the teacher's log-probabilities.
    """

    logsumexp: Any
    total: Any
    entropy: Any = 0.0
    expected: Any = 0.0
    joint: Any = 0.0

    @property
    def divergence(self) -> Any:
        """Mean KL from the teacher's distribution to the softmax of the scores."""
        return (self.entropy - self.expected + self.logsumexp).mean()


def sums_over_blocks(states: Any, rows: Any, teacher: LogProbs | None = None, size: int | None = None) -> Sums:
    """Pass over the catalogue in blocks.

    Args:
        states: float32 ``[n, hidden]``.
        rows: Of all items, float32 ``[items, hidden]``.
        teacher: Log-probabilities of a block, without gradients.
        size: Items of a block; default: by the number of positions.
    """
    size = size or block_size(len(states))
    parts, start = [], 0
    for block in rows.split(size):  # the gradients of the blocks are joined once, unlike those of slices
        end = start + len(block)
        parts.append(checkpoint(_block, states, block, teacher, start, end, use_reentrant=False))
        start = end
    logs, total, *rest = (torch.stack(part) for part in zip(*parts, strict=True))
    if teacher is None:
        return Sums(logs.logsumexp(0), total.sum(0))
    entropy, expected, joint = rest
    return Sums(logs.logsumexp(0), total.sum(0), entropy.sum(0), expected.sum(0), joint.logsumexp(0))


def _block(states: Any, rows: Any, teacher: LogProbs | None, start: int, end: int) -> tuple[Any, ...]:
    scores = states @ rows.T
    sums = (scores.logsumexp(1), scores.sum(1))
    if teacher is None:
        return sums
    log_probs = teacher(start, end)
    shares = log_probs.exp()
    return (
        *sums,
        (shares * log_probs).sum(1),
        (shares * scores).sum(1),
        (scores + log_probs).logsumexp(1),
    )


def cross_entropy_in_blocks(states: Any, rows: Any, targets: Any, label_smoothing: float = 0.0) -> Any:
    """``F.cross_entropy(states @ rows.T, targets, label_smoothing=...)`` in blocks.

    Args:
        states: float32 ``[n, hidden]``.
        rows: float32 ``[items, hidden]``.
        targets: int64 ``[n]``.
        label_smoothing: Share of the target that is spread over the catalogue.
    """
    sums = sums_over_blocks(states, rows)
    loss = sums.logsumexp - (1 - label_smoothing) * (states * rows[targets]).sum(1)
    return (loss - label_smoothing * sums.total / len(rows)).mean()
