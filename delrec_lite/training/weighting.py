"""The weights of the stage 1 losses in their sum: by uncertainty, by gradient norm, or all 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from delrec_lite.processes import current


class TaskWeights(nn.Module):
    """Weights of several losses.

    ``uncertainty``: the sum of ``exp(-s) loss + s`` with learned s (Kendall et al., arXiv 1705.07115).
    ``gradient-norm``: each loss is weighted so that its gradient on the shared parameter has the mean norm of all
    (the aim of GradNorm, Chen et al., arXiv 1711.02257; computed at every step instead of learned).
    ``fixed``: the sum.

    Args:
        tasks: How many losses.
        weighting: One of the above.
    """

    def __init__(self, tasks: int, weighting: str) -> None:
        super().__init__()
        self.weighting = weighting
        self.log_variance = nn.Parameter(torch.zeros(tasks), requires_grad=weighting == "uncertainty")

    def forward(self, losses: Sequence[Any], shared: Any) -> Any:
        """The weighted sum of the losses; ``shared`` is the parameter whose gradients are balanced."""
        stacked = torch.stack(list(losses))
        if self.weighting == "gradient-norm" and len(losses) > 1:
            return (balance(losses, shared) * stacked).sum()
        return (torch.exp(-self.log_variance) * stacked + self.log_variance).sum()


def balance(losses: Sequence[Any], shared: Any) -> Any:
    """Weights under which all gradients on ``shared`` have the same norm, their mean; 0 where there is no gradient.

    All are 1 if no loss has a gradient: with a prompt without soft tokens, only other parameters are trained.
    """
    gradients = [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses]
    current().all_reduce(gradients)  # each of several processes has the gradient of its share
    norms = torch.stack([gradient.norm() for gradient in gradients])
    nonzero = norms > 0
    if not nonzero.any():
        return torch.ones_like(norms)
    return torch.where(
        nonzero, norms[nonzero].mean() / norms.where(nonzero, torch.ones_like(norms)), torch.zeros_like(norms)
    )
