"""The recipe of a fit: a name, a path, a mapping or a `Recipe`, and the data section that the frames give it."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delrec_lite.console import Console
from delrec_lite.errors import ConfigError, MissingPackageError, UsageError, install_line

if TYPE_CHECKING:
    from delrec_lite.config import Recipe


def read_recipe(recipe: Any) -> "Recipe":
    """A recipe by its name in the package, by the path of a YAML file, or from its keys.

    Raises:
        ConfigError: No such recipe, an unknown key or a value out of range; the message has the key.
        MissingPackageError: The packages of training are not installed.
        UsageError: Something else.
    """
    try:
        from delrec_lite.config import Recipe, load_recipe, parse
    except ImportError as error:
        raise MissingPackageError(
            f"training needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | os.PathLike):
        return load_recipe(os.fspath(recipe))
    if isinstance(recipe, Mapping):
        try:
            text = json.dumps(dict(recipe), default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the recipe cannot be read: {error}", "give texts, numbers, lists and mappings"
            ) from error
        return parse(text, "the recipe")
    raise UsageError(
        f"a recipe cannot be of type {type(recipe).__name__}",
        "give the name of a shipped recipe, the path of a YAML file, a mapping of its keys, or a Recipe",
    )


def for_frames(recipe: "Recipe", folder: Path, domain: str | None, verb: str | None = None) -> "Recipe":
    """The recipe with a prepared data set in place of its own.

    A recipe that names a data set to pull describes that one in ``data``: of it ``domain`` and ``verb`` stay. Of
    another recipe the keys of ``data`` stay; those that contradict the data set are refused when the run begins.

    Args:
        recipe: Of the model and the training.
        folder: The data set, as `prepare` writes it.
        domain: What an item is; None: as the recipe says.
        verb: What people have done with an item; None: the verb of ``domain``, or where that is None, of the recipe.
    """
    data = recipe.data
    given = set() if "name" in data.model_fields_set else data.model_fields_set - {"folder", "domain", "verb"}
    word, done = (data.domain, data.verb) if domain is None else (domain, verb)
    kept = {**data.model_dump(include=given), "domain": word, **({} if done is None else {"verb": done})}
    content = {**recipe.model_dump(mode="json", exclude={"data"}), "data": {**kept, "folder": str(folder)}}
    return read_recipe(content)


def check_name(name: str) -> None:
    """Refuse a data set's name that cannot be the name of a run.

    Raises:
        UsageError: It cannot.
    """
    from delrec_lite.config import NAME

    if not re.match(NAME, name):
        raise UsageError(
            f"the data set is called {name!r}, and its run cannot be",
            'name it with letters, digits, ".", "-" and "_": from_frames(..., name="shop"); or give DelRec a recipe',
        )


def started(name: str, folder: Path, runs: Path, console: Console) -> "Recipe":
    """The recipe that `delrec-lite init` writes for a data set, in ``runs``; at later calls the one that is there.

    Args:
        name: Of the recipe.
        folder: The data set; its words are those of the prompts.
        runs: Folder of all runs.
        console: Says where it is.

    Raises:
        ConfigError: The recipe there cannot be read.
        StorageError: It cannot be written.
    """
    path = runs / f"{name}.yaml"
    if not path.is_file():
        from delrec_lite.pipeline.start import start_recipe

        runs.mkdir(parents=True, exist_ok=True)
        written = start_recipe(name, folder, None, "", path, console=console)
        console.say(f"  recipe: {path}, {written.summary}")
    return read_recipe(path)


def _plain(value: Any) -> Any:
    """A value of NumPy or a path as JSON has it."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is neither text nor number")
