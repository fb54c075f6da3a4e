"""A sampled softmax: each position's target among the negatives of the step, weighted so that sums are unbiased."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from delrec_lite.softmax.negatives import Draw


@dataclass(frozen=True)
class Sample:
    """The items that one step scores: targets and negatives.

    The weights correct the negatives alone: a target is scored at its own position whatever was drawn (Khrylchenko et
    al., 2025, arXiv 2507.09331), and not a second time where it was drawn too.

    Attributes:
        items: Item indices, ascending, each once: int64 ``[k]``.
        targets: Place of each position's target in ``items``: int64 ``[n]``.
        negatives: Places of the negatives in ``items``: int64 ``[m]``.
        log_weights: Of the negatives, float32 ``[m]``.
    """

    items: Any
    targets: Any
    negatives: Any
    log_weights: Any

    @classmethod
    def of(cls, targets: Any, draw: Draw) -> "Sample":
        """The sample of a step.

        Args:
            targets: Item indices, int64 ``[n]``; the sample is on their device.
            draw: The negatives.
        """
        drawn = torch.from_numpy(draw.items).to(targets.device)
        items = torch.cat([targets, drawn]).unique()
        log_weights = torch.from_numpy(draw.log_weights).to(targets.device)
        return cls(items, torch.searchsorted(items, targets), torch.searchsorted(items, drawn), log_weights)

    def logits(self, states: Any, rows: Any) -> Any:
        """Logits whose log-softmax estimates that over the catalogue: the target's first, then the negatives'.

        Args:
            states: float32 ``[n, hidden]``.
            rows: Of ``items``, float32 ``[k, hidden]``.

        Returns:
            float32 ``[n, 1 + m]``.
        """
        of_targets = (states * rows[self.targets]).sum(1, keepdim=True)
        return self._weighted(of_targets, states @ rows[self.negatives].T)

    def logits_of(self, scores: Any) -> Any:
        """The same from scores of ``items``: float32 ``[n, k]``."""
        return self._weighted(scores.gather(1, self.targets[:, None]), scores[:, self.negatives])

    def mean_score(self, logits: Any) -> Any:
        """The mean score of the catalogue as the sample estimates it, from ``logits``: float32 ``[n]``."""
        weights = self.log_weights.exp() * (logits[:, 1:] > float("-inf"))
        scores = torch.where(weights > 0, logits[:, 1:] - self.log_weights, 0.0)
        return (logits[:, 0] + (weights * scores).sum(1)) / (1 + weights.sum(1))

    def without_weights(self, logits: Any) -> Any:
        """What ``logits`` returned, or its log-softmax, without the weights of the negatives."""
        return torch.cat([logits[:, :1], logits[:, 1:] - self.log_weights], 1)

    def _weighted(self, of_targets: Any, of_negatives: Any) -> Any:
        weighted = of_negatives + self.log_weights
        # A target that is also a negative would be pushed up and down at once.
        weighted = weighted.masked_fill(self.negatives == self.targets[:, None], float("-inf"))
        return torch.cat([of_targets, weighted], 1)


def first_of(logits: Any) -> Any:
    """Cross-entropy of the first of each row of logits."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def divergence(target_log_probs: Any, logits: Any) -> Any:
    """Mean KL from log-probabilities of a sample to the softmax of logits; entries of -inf in both count nothing."""
    log_probs = F.log_softmax(logits, 1)
    drawn = target_log_probs > float("-inf")
    difference = torch.where(drawn, target_log_probs - log_probs.masked_fill(~drawn, 0.0), 0.0)
    return (target_log_probs.exp() * difference).sum(1).mean()
