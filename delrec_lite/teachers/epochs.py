"""The training loop of all teachers: it ends with the weights of the epoch with the best validation score."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from delrec_lite.errors import DelrecError
from delrec_lite.teachers.contract import Network

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Epochs(Generic[Batch]):
    """Batches, loss and length of a training.

    Attributes:
        label: Name in errors.
        count: Largest number of epochs.
        patience: Epochs without improvement after which training stops.
        batches: The batches of an epoch, counted from 1.
        loss: Of a batch: the mean over its targets, and their number.
        lr: The highest learning rate.
        lr_factor: Factor of ``lr`` after so many epochs, which may be a fraction.
        clip: Largest norm of a step's gradients.
    """

    label: str
    count: int
    patience: int
    batches: Callable[[int], Sequence[Batch]]
    loss: Callable[[Batch], tuple[Any, int]]
    lr: float
    lr_factor: Callable[[float], float] = lambda _: 1.0
    clip: float = math.inf


def train_epochs(
    network: Network,
    optimiser: Any,
    epochs: Epochs[Any],
    validate: Callable[[int, float], float],
    best_score: float = -math.inf,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Train the network; at the end it has the weights of its best epoch and is in evaluation mode.

    Torch's random state decides dropout; the caller sets it.

    Args:
        network: Changed in place.
        optimiser: Over its parameters.
        epochs: Batches, loss and length.
        validate: Called with the epoch and its mean loss; returns the network's score, higher is better.
        best_score: The score to beat; if no epoch does, the weights are not changed.
        is_over: Called after each epoch; true stops training.

    Returns:
        The best epoch; 0 if none was better than ``best_score``.

    Raises:
        DelrecError: The loss is not a number.
    """
    best_weights, best = _copy(network), 0
    for epoch in range(1, epochs.count + 1):
        score = validate(epoch, _train_epoch(network, optimiser, epochs, epoch))
        if score > best_score:
            best_weights, best, best_score = _copy(network), epoch, score
        if epoch - best >= epochs.patience or is_over():
            break
    network.load_state_dict(best_weights)
    return best


def _train_epoch(network: Network, optimiser: Any, epochs: Epochs[Any], epoch: int) -> float:
    """One pass over all batches; the mean loss of a target."""
    network.train()
    total, count = 0.0, 0
    batches = epochs.batches(epoch)
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = epochs.lr * epochs.lr_factor(epoch - 1 + step / len(batches))
        loss, targets = epochs.loss(batch)
        if not torch.isfinite(loss):
            raise DelrecError(f"{epochs.label}: the loss is not a number in epoch {epoch}", "lower teacher.settings.lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if epochs.clip < math.inf:
            nn.utils.clip_grad_norm_(network.parameters(), epochs.clip)
        optimiser.step()
        total, count = total + loss.item() * targets, count + targets
    network.eval()
    return total / count


def _copy(network: Network) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
