"""The windows of each step of stage 2, and the items that a step of a sampled softmax reads and trains."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from delrec_lite.config import FinetuneSection
from delrec_lite.data.types import Ints
from delrec_lite.errors import ConfigError
from delrec_lite.softmax.choice import Softmax
from delrec_lite.softmax.rows import RowTable, TrainedRows
from delrec_lite.training.catalogue_loss import CatalogueLoss
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.tasks import truncate_to_context
from delrec_lite.training.windows import StepPlan


class StepItems:
    """Windows, negatives and items of the steps of stage 2.

    Attributes:
        plan: Windows before they are cut to the prompt.
        loss: Over the catalogue.

    Args:
        context: Model and data.
        recipe: Stage 2 of the recipe.
    """

    def __init__(self, context: TrainingContext, recipe: FinetuneSection) -> None:
        self._context = context
        self.plan = StepPlan(context.dataset.train(), context.max_history, recipe.tokens_per_step, recipe.seed)
        self.loss = CatalogueLoss(context, recipe.tokens_per_step, recipe.seed)
        self._cached = lru_cache(maxsize=1)(self._windows)

    def windows(self, step: int) -> list[Ints]:
        """The windows of a step that fit into the prompt."""
        return self._cached(step)

    def _windows(self, step: int) -> list[Ints]:
        return truncate_to_context(self._context.prompts, self.plan.at(step), self._context.max_history)

    def items(self, step: int) -> Ints:
        """The items of a step: histories, targets and negatives, ascending, each once."""
        items: Ints = np.unique(np.concatenate([*self.windows(step), self.loss.draw(step).items]))
        return items


def refuse_running_mean(softmax: Softmax, recipe: FinetuneSection) -> None:
    """Check that stage 2 needs no vectors that its softmax does not train.

    Args:
        softmax: As it was chosen.
        recipe: Stage 2 of the recipe.

    Raises:
        ConfigError: A running mean of the weights is asked for, which needs all rows at every step.
    """
    if softmax == "sampled" and recipe.average:
        raise ConfigError(
            "finetune.average needs all item vectors at every step, and a sampled softmax trains some of them",
            "set finetune.average: 0, or model.softmax: blocks",
        )


def trained_rows(
    data: StepItems, learned: Mapping[str, Any], recipe: FinetuneSection
) -> tuple[TrainedRows | None, dict[str, Any]]:
    """The tables whose rows a sampled softmax trains, and the other learned vectors, which AdamW trains.

    Args:
        data: Of the stage.
        learned: All learned item vectors by name.
        recipe: Stage 2 of the recipe.

    Raises:
        ConfigError: See ``refuse_running_mean``.
    """
    tables = {name: p for name, p in learned.items() if name.startswith("offset_")}
    if data.loss.softmax != "sampled" or not tables:
        return None, dict(learned)
    refuse_running_mean(data.loss.softmax, recipe)
    rows = TrainedRows({name: RowTable(p) for name, p in tables.items()}, data.items, recipe.item_lr)
    return rows, {name: p for name, p in learned.items() if name not in tables}
