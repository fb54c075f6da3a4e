"""Whether a recipe's training fits this machine's card or memory, computed before anything is loaded."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delrec_lite import machine
from delrec_lite.config import Recipe
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import OutOfMemoryError
from delrec_lite.softmax.choice import chosen_softmax
from delrec_lite.training.plan import (
    CUDA_CONTEXT,
    Training,
    choices,
    estimate,
    parse_bytes,
    required,
    smallest,
    usable,
)
from delrec_lite.training.shapes import Shape, find_shape


@dataclass(frozen=True)
class Place:
    """Where a recipe trains.

    Attributes:
        name: Of the card or of the machine, for messages.
        memory: Its bytes for this process; 0 if unknown.
        cuda: Whether it is a card.
    """

    name: str
    memory: float
    cuda: bool


def place_of(device: str) -> Place:
    """The current card, with the memory that no other process uses, or this machine's CPU.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if device != "cuda":
        return Place("this machine", machine.memory_limit_bytes(), cuda=False)
    import torch

    free, total = torch.cuda.mem_get_info()  # from here on this process's own context is not free
    name = torch.cuda.get_device_name()
    return Place(name, min(total, free + CUDA_CONTEXT), cuda=True)


@dataclass(frozen=True)
class RecipeCheck:
    """A recipe and the place that it is planned for; nothing is loaded or fetched.

    Attributes:
        recipe: To be trained.
        shape: Of its base.
        items: In its catalogue.
        place: A card, or this machine where the recipe says ``cpu``.
    """

    recipe: Recipe
    shape: Shape
    items: int
    place: Place

    @classmethod
    def of(cls, recipe: Recipe, gpu_memory: str, items: int, folders: tuple[Path, ...]) -> "RecipeCheck":
        """Plan a recipe for a card of ``gpu_memory``.

        Args:
            recipe: To be trained.
            gpu_memory: Such as ``12GB``.
            items: In the catalogue, if the recipe names no prepared data set.
            folders: Where cached configurations may lie.

        Raises:
            DataError: ``data.folder`` holds no prepared data set.
            UsageError: The shape of the base is not known, or ``gpu_memory`` is not a size.
        """
        shape, _ = find_shape(recipe.model.base, folders)
        if recipe.data.folder is not None:
            items = len(load_dataset(Path(recipe.data.folder)).catalog)
        place = Place(f"a card of {gpu_memory}", parse_bytes(gpu_memory), cuda=True)
        if recipe.model.device == "cpu":
            place = place_of("cpu")
        return cls(recipe, shape.cut(recipe.model.layers), items, place)

    def run(self) -> None:
        """See ``check_memory``."""
        precision = self.recipe.model.precision
        check_memory(self.recipe, self.shape, self.items, "bf16" if precision == "auto" else precision, self.place)


def trainings(recipe: Recipe, items: int, precision: str, processes: int = 1) -> dict[str, Training]:
    """What each training stage of a recipe holds at once.

    Args:
        recipe: Of the run.
        items: In the catalogue.
        precision: As ``resolve_precision`` names it.
        processes: That share a step.
    """
    finetune, distill = recipe.finetune, recipe.distill
    stage2 = Training(
        precision=precision.partition("/")[0],
        checkpointing=finetune.checkpointing,
        tokens=math.ceil(finetune.tokens_per_step / (finetune.gradient_accumulation_steps * processes)),
        context=recipe.model.max_history,
        items=items,
        soft=recipe.model.soft_tokens,
        rank=finetune.rank,
        modules=finetune.modules,
        teacher=finetune.teacher_weight > 0 or finetune.teacher_inside,
        optimiser=finetune.optimiser,
        softmax=chosen_softmax(recipe.model.softmax, items, finetune.tokens_per_step),
        negatives=recipe.model.negatives,
    )
    stage1 = replace(
        stage2,
        tokens=math.ceil(distill.tokens_per_step / processes),
        checkpointing=distill.checkpointing,
        teacher=True,
        optimiser="adamw",
        softmax=chosen_softmax(recipe.model.softmax, items, distill.tokens_per_step),
    )
    return {"distill": stage1, "finetune": stage2}


def check_memory(recipe: Recipe, shape: Shape, items: int, precision: str, place: Place, processes: int = 1) -> None:
    """Refuse a training that needs more memory than there is.

    The plan holds for histories of item tokens that rank the whole catalogue; other forms are not checked.

    Args:
        recipe: Of the run.
        shape: Of its base.
        items: In the catalogue.
        precision: As ``resolve_precision`` names it.
        place: Where it trains.
        processes: That share a step.

    Raises:
        OutOfMemoryError: Names the stage, what it needs, and the settings that fit.
    """
    if place.memory <= 0 or recipe.model.history != "items" or recipe.model.candidates_in_prompt:
        return
    settings = fitting_settings(recipe, shape, items, place, processes, (precision.partition("/")[0],))
    for stage, training in trainings(recipe, items, precision, processes).items():
        needed = estimate(shape, training, place.cuda).total
        if needed <= usable(place.memory, place.cuda):
            continue
        total = required(needed, place.cuda)
        if settings:
            current = {**_current(recipe), "model.precision": precision.partition("/")[0]}
            changes = {key: value for key, value in settings.items() if current[key] != value}
            hint = "set " + ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
        else:
            least = required(smallest(shape, training, place.cuda).total, place.cuda)
            hint = f"no setting of this base fits, the smallest needs {least / 1e9:.1f} GB: take a smaller model.base"
        raise OutOfMemoryError(
            f"{stage} of {recipe.name} needs {total / 1e9:.1f} GB, and {place.name} has {place.memory / 1e9:.1f} GB "
            "(computed, nothing was loaded)",
            hint,
        )


def _current(recipe: Recipe) -> dict[str, Any]:
    return {
        "finetune.checkpointing": recipe.finetune.checkpointing,
        "finetune.gradient_accumulation_steps": recipe.finetune.gradient_accumulation_steps,
        "distill.checkpointing": recipe.distill.checkpointing,
    }


def fitting_settings(
    recipe: Recipe, shape: Shape, items: int, place: Place, processes: int = 1, precisions: tuple[str, ...] = ("bf16",)
) -> dict[str, Any]:
    """The first setting of the plan that fits both stages, by recipe key; empty if none does.

    Args:
        recipe: Its steps, adapter and prompt are kept.
        shape: Of its base.
        items: In the catalogue.
        place: Where it trains.
        processes: That share a step.
        precisions: In the order of preference; NF4 follows on a card.
    """
    if place.cuda:
        precisions = tuple(dict.fromkeys([*precisions, "nf4"]))
    whole = recipe.model_copy(
        update={"finetune": recipe.finetune.model_copy(update={"gradient_accumulation_steps": 1})}
    )
    of_stage = trainings(whole, items, precisions[0], processes)
    for choice in choices(shape, place.memory, of_stage["finetune"], precisions, place.cuda):
        stage1 = replace(of_stage["distill"], precision=choice.precision)
        for checkpointing in (False, True):
            needed = estimate(shape, replace(stage1, checkpointing=checkpointing), place.cuda).total
            if needed <= usable(place.memory, place.cuda):
                return {
                    "model.precision": choice.precision,
                    "finetune.checkpointing": choice.checkpointing,
                    "finetune.gradient_accumulation_steps": choice.gradient_accumulation_steps,
                    "distill.checkpointing": checkpointing,
                }
    return {}
