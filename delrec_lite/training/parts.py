"""A step in parts: gradients of a share of its examples at a time, whose mean is the step's gradient."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

Example = TypeVar("Example")


def micro_batches(
    loss_on: Callable[[Sequence[Example], int], tuple[Any, dict[str, float]]],
    examples_of: Callable[[int], Sequence[Example]],
    size_of: Callable[[Example], int],
    parts: int,
) -> Callable[[int], tuple[Any, dict[str, float]]]:
    """The loss of part ``n``, that is of part ``n % parts`` of step ``n // parts``.

    Each part is weighted by its share of the step's targets, so the mean over the parts is the loss of the whole step.

    Args:
        loss_on: Mean loss over the targets of some examples of a step, and figures of the same kind.
        examples_of: All that a step learns from; what is drawn at random is drawn here, for the step as a whole.
        size_of: How many targets an example has.
        parts: Into how many a step is divided.
    """
    examples_of = lru_cache(maxsize=1)(examples_of)  # the parts of a step are asked for one after another

    def loss_of(part: int) -> tuple[Any, dict[str, float]]:
        step, n = divmod(part, parts)
        whole = examples_of(step)
        mine = whole[n::parts]
        weight = parts * sum(map(size_of, mine)) / max(1, sum(map(size_of, whole)))
        # A step of fewer examples than parts: there is nothing to learn here, but a loss there must be.
        loss, figures = loss_on(mine or whole[:1], step)
        return loss * weight, {name: value * weight for name, value in figures.items()}

    return loss_of
