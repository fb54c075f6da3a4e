"""A step in parts: gradients of a share of its windows at a time, whose mean is the step's gradient."""

from collections.abc import Callable
from typing import Any

from delrec_lite.data.types import Ints
from delrec_lite.training.windows import StepPlan

LossOn = Callable[[list[Ints], int], tuple[Any, dict[str, float]]]


def in_parts(loss_on: LossOn, batches: StepPlan, parts: int) -> Callable[[int], tuple[Any, dict[str, float]]]:
    """The loss of part ``n``, that is of part ``n % parts`` of step ``n // parts``.

    Each part is weighted by its share of the step's items, so the mean over the parts is the loss of the whole step.

    Args:
        loss_on: Mean loss over the items of some windows of a step, and figures of the same kind.
        batches: The windows of each step.
        parts: Into how many a step is divided.
    """

    def loss_of(part: int) -> tuple[Any, dict[str, float]]:
        step, n = divmod(part, parts)
        batch = batches.at(step)
        mine = batch[n::parts]
        weight = parts * sum(len(w) - 1 for w in mine) / sum(len(w) - 1 for w in batch)
        # A step of fewer windows than parts: there is nothing to learn here, but a loss there must be.
        loss, figures = loss_on(mine or batch[:1], step)
        return loss * weight, {name: value * weight for name, value in figures.items()}

    return loss_of
