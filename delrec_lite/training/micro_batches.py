"""Micro-batches of a step: each gives the gradients of a share of its examples; their mean is the step's gradient."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

Example = TypeVar("Example")


def micro_batch_losses(
    loss_on: Callable[[Sequence[Example], int], tuple[Any, dict[str, float]]],
    examples_of: Callable[[int], Sequence[Example]],
    size_of: Callable[[Example], int],
    count: int,
) -> Callable[[int], tuple[Any, dict[str, float]]]:
    """The loss of micro-batch ``index``, which is number ``index % count`` of step ``index // count``.

    Each is weighted by its share of the step's targets, so the mean over the micro-batches is the loss of the step.

    Args:
        loss_on: The mean loss over the targets of examples of a step, and other means over them by name.
        examples_of: All examples of a step; random draws belong here, so that they are the same for any ``count``.
        size_of: How many targets an example has.
        count: Micro-batches of a step.
    """
    examples_of = lru_cache(maxsize=1)(examples_of)  # the micro-batches of a step follow each other

    def loss_of(index: int) -> tuple[Any, dict[str, float]]:
        step, offset = divmod(index, count)
        examples = examples_of(step)
        share = examples[offset::count]
        weight = count * sum(map(size_of, share)) / max(1, sum(map(size_of, examples)))
        # Fewer examples than micro-batches: this one has none, and a loss of weight 0 is needed.
        loss, figures = loss_on(share or examples[:1], step)
        return loss * weight, {name: value * weight for name, value in figures.items()}

    return loss_of
