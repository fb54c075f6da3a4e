"""The one training loop of teachers: epochs of steps, and the weights of the epoch that validation likes best."""

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
    """What is learned from, and for how long.

    Attributes:
        label: What errors call it.
        count: Most epochs.
        patience: Epochs without a better one that end training.
        batches: The batches of an epoch, counted from 1.
        loss: Of a batch: the mean over its targets, and how many targets those are.
        lr: The highest learning rate.
        lr_factor: What ``lr`` is multiplied with after so many epochs, a fraction within one.
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
    least: float = -math.inf,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Train, and leave the network with the weights of its best epoch, in evaluation mode.

    Torch's random state decides on dropout; the caller sets it.

    Args:
        network: Changed in place.
        optimiser: Over its parameters.
        epochs: What is learned, how long.
        validate: How good the network is after an epoch with this mean loss of a target; higher is better.
        least: What an epoch must be better than; if none is, the weights stay as they were.
        is_over: Asked after each epoch whether to stop.

    Returns:
        The best epoch; 0 if none was better than ``least``.

    Raises:
        DelrecError: The loss is not a number.
    """
    kept, best = _copy(network), 0
    for epoch in range(1, epochs.count + 1):
        score = validate(epoch, _train_epoch(network, optimiser, epochs, epoch))
        if score > least:
            kept, best, least = _copy(network), epoch, score
        if epoch - best >= epochs.patience or is_over():
            break
    network.load_state_dict(kept)
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
