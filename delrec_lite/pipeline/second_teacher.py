"""`finetune.teacher_recipe`: the trained model of another recipe teaches beside the conventional recommender."""

from typing import TYPE_CHECKING

from delrec_lite.config import Recipe, load_recipe
from delrec_lite.errors import ConfigError
from delrec_lite.pipeline.stage import Stages

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.pipeline.model_builder import ModelBuilder
    from delrec_lite.teachers.ensemble import Mixture


def teaching_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of ``finetune.teacher_recipe``.

    Raises:
        ConfigError: There is none of this name, or it cannot teach this one: it has the same name, such a teacher
            itself, or fewer items in its prompt.
    """
    path = recipe.finetune.teacher_recipe
    if path is None:
        return None
    other, key = load_recipe(path), f"finetune.teacher_recipe {path}"
    if other.name == recipe.name:
        raise ConfigError(f"{key} has the name of this recipe, {recipe.name}", "give one of them another name")
    if other.finetune.teacher_recipe is not None:
        raise ConfigError(f"{key} has a teacher_recipe itself", "name a recipe without one")
    if other.model.max_history < recipe.model.max_history:
        raise ConfigError(
            f"{key} has a history of {other.model.max_history} items, this recipe one of {recipe.model.max_history}",
            "give both the same model.max_history",
        )
    return other


def second_teacher(run: Stages, models: "ModelBuilder", other: Stages, teaching: "ModelBuilder") -> "Mixture":
    """The mean of a run's teacher and another run's model, which is trained first if it is not yet.

    Args:
        run: That learns.
        models: Its own.
        other: The run of its recipe's ``finetune.teacher_recipe``.
        teaching: That run's models.

    Raises:
        ConfigError: The other run has other data, or its form of prompt does not rank the whole catalogue.
    """
    from delrec_lite.llm.taught import ModelTeacher
    from delrec_lite.teachers.ensemble import Mixture

    if other.prepare().result["fingerprint"] != run.prepare().result["fingerprint"]:
        raise ConfigError(
            f"{other.recipe.name}, this recipe's finetune.teacher_recipe, has another data set",
            "give both recipes the same section data",
        )
    built = teaching.trained()
    if not built.prompts.format.ranks_catalogue:
        raise ConfigError(
            f"{other.recipe.name}, this recipe's finetune.teacher_recipe, ranks given candidates alone",
            "name a recipe whose model.verbalizer is title-mean and that lists no candidates",
        )
    items, length = len(run.dataset.catalog), run.recipe.model.max_history
    return Mixture([models.teacher(), ModelTeacher(built.model, built.prompts, items, length)])
