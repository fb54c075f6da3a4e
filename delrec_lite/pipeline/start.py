"""`init`: the recipe tested on ML-100K, adapted to the size of another data set."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from delrec_lite.config import Recipe, load_recipe, parse
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import StorageError, UsageError
from delrec_lite.files import cache_folder, write_atomic
from delrec_lite.pipeline.base import check_local

PATTERN = "ml-100k-cpu"
# ml-100k-cpu on two cores: stage 2 reads 250 item tokens a second, stage 1 and the teachers add a third to the time.
TOKENS_PER_SECOND = 190
LEAST_EPOCHS = 0.5


@dataclass(frozen=True)
class Started:
    """A new recipe.

    Attributes:
        path: Its file.
        recipe: Its content.
        summary: The data set's size and the expected training time.
        minutes: Expected training time on two cores.
    """

    path: Path
    recipe: Recipe
    summary: str
    minutes: int


def start_recipe(name: str, data: Path, domain: str, base: str, out: Path) -> Started:
    """Write a recipe for a prepared data set.

    Args:
        name: Of the recipe.
        data: A folder that ``delrec-lite prepare`` wrote.
        domain: ``movie``, ``game``, ``artist`` or ``item``.
        base: The LLM; empty: that of ``ml-100k-cpu``.
        out: The file; it must not exist.

    Raises:
        DataError: ``data`` holds no data set.
        ConfigError: An invalid name or domain, or a base on disk that cannot be trained.
        UsageError: ``out`` exists.
        StorageError: It cannot be written.
    """
    dataset = load_dataset(data)
    if out.exists():
        raise UsageError(f"{out} exists", "choose another with --out, or remove it")
    interactions, items = sum(len(s) for s in dataset.sequences), len(dataset.catalog)
    pattern = load_recipe(PATTERN).model_dump(mode="json", exclude_defaults=True)
    passes = pattern["finetune"]["epochs"]
    hour = 3600 * TOKENS_PER_SECOND / interactions
    pattern["name"] = name
    pattern["data"] = {"folder": str(data), "domain": domain}
    pattern["finetune"]["epochs"] = round(min(passes, max(LEAST_EPOCHS, hour)), 2)
    if base:
        pattern["model"] = {**pattern.get("model", {}), "base": base}
    minutes = max(1, round(pattern["finetune"]["epochs"] * interactions / TOKENS_PER_SECOND / 60))
    summary = (
        f"{len(dataset.user_ids)} users, {items} items, {interactions} interactions: about {minutes} minutes of "
        "training on two cores"
    )
    text = (
        f"# {summary}, with SmolLM2-135M.\n"
        "# Every key and its default: docs/recipe.md. A change computes only the affected stages again.\n"
        f"{yaml.safe_dump(pattern, sort_keys=False)}"
    )
    recipe = parse(text, str(out))
    check_local(recipe.model.base, (cache_folder() / "hub", cache_folder() / "models"))
    try:
        write_atomic(out, text)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error}", "choose another with --out") from error
    return Started(out, recipe, summary, minutes)
