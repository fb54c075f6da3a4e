"""The check of this machine before a run trains: a card that torch cannot use, and memory that does not suffice."""

from delrec_lite.cards import problem_here
from delrec_lite.errors import UsageError
from delrec_lite.hub.base import base_folders
from delrec_lite.pipeline.base import need_torch
from delrec_lite.pipeline.memory import check_memory, place_of
from delrec_lite.pipeline.model_builder import ModelBuilder
from delrec_lite.pipeline.stage import Stages
from delrec_lite.processes import current
from delrec_lite.softmax.choice import chosen_softmax
from delrec_lite.training.shapes import Shape, find_config, find_shape


def check_machine(run: Stages, models: ModelBuilder, items: int) -> None:
    """Check that a run's training fits, and say why it does not use a card that is there.

    Args:
        run: Its recipe is checked.
        models: Of the run.
        items: In its catalogue.

    Raises:
        ConfigError: ``model.device`` is ``cuda``, and torch finds no card; or a running mean of sampled item vectors.
        OutOfMemoryError: It does not fit.
    """
    need_torch()
    from delrec_lite.llm.precision import device_for
    from delrec_lite.training.step_items import refuse_running_mean

    recipe = run.recipe
    if models.ranks_catalogue:
        softmax = chosen_softmax(recipe.model.softmax, items, recipe.finetune.tokens_per_step)
        refuse_running_mean(softmax, recipe.finetune)
    device = device_for(recipe.model.device)
    if device == "cpu" and recipe.model.device == "auto" and (problem := problem_here()):
        run.console.say(f"  training on the CPU: {problem.message}; {problem.hint}")
    shape = _shape(models, recipe.model.base).cut(recipe.model.layers)
    check_memory(recipe, shape, items, models.precision, place_of(device), current().count)


def on_disk(base: str) -> bool:
    """Whether the configuration of a base can be read without pulling it."""
    return find_config(base, base_folders()) is not None


def _shape(models: ModelBuilder, base: str) -> Shape:
    """The shape of the base, without pulling it where it is known."""
    try:
        return find_shape(base, base_folders())[0]
    except UsageError:
        return find_shape(str(models.base_folder))[0]
