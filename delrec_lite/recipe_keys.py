"""The keys of a recipe by their dotted names: set from the command line, and named in errors with the nearest one."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from delrec_lite.errors import ConfigError, did_you_mean, nearest_name, short

SETTINGS = "teacher.settings"
# Between alike names of two sections, as finetune.lr and distill.lr are, a likeness of 0.6 would choose by chance.
_VERY_LIKE = 0.85


def keys_of(recipe: type[BaseModel]) -> tuple[str, ...]:
    """Every key: ``name``, ``data.name``, ``finetune.lr`` and so on.

    Args:
        recipe: The class of recipes.
    """
    keys = []
    for name, field in recipe.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        keys += [name] if inner is None else [f"{name}.{key}" for key in inner]
    return tuple(keys)


def meant_key(key: str, recipe: type[BaseModel]) -> str:
    """A hint for an unknown key: the one that looks most like it, or has the same name in another section."""
    keys = keys_of(recipe)
    section, _, name = key.rpartition(".")
    if nearest := nearest_name(key, keys, least=_VERY_LIKE):
        return f"did you mean {nearest}?"
    if same := [known for known in keys if known.rpartition(".")[2] == name]:
        return f"did you mean {' or '.join(same)}?"
    if section in recipe.model_fields:
        return did_you_mean(key, [known for known in keys if known.startswith(f"{section}.")])
    return did_you_mean(key.partition(".")[0], recipe.model_fields)


def nested(key: str) -> str:
    """A dotted key as a recipe has it: ``finetune: {lr: ...}``."""
    *sections, last = key.split(".")
    text = f"{last}: ..."
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    return text


def check_key(key: str, recipe: type[BaseModel], where: str) -> None:
    """Check that a key exists; settings of teachers are checked with their kind.

    Raises:
        ConfigError: It does not, or is a section; names the nearest.
    """
    keys = keys_of(recipe)
    if key in keys or re.fullmatch(rf"{re.escape(SETTINGS)}(\.[^.]+){{1,2}}", key):
        return
    if key in recipe.model_fields:
        first = next(known for known in keys if known.startswith(f"{key}."))
        raise ConfigError(f"{where}: {key!r} is a section", f"name one of its keys, such as {first}")
    raise ConfigError(f"{where}: unknown key {key!r}", meant_key(key, recipe))


def set_key(data: dict[str, Any], key: str, value: Any, recipe: type[BaseModel]) -> None:
    """Set one key in the mapping that a recipe's YAML stands for.

    Raises:
        ConfigError: See ``check_key``.
    """
    check_key(key, recipe, "--set")
    *parents, last = key.split(".")
    for parent in parents:
        inner = data.get(parent, {})
        if not isinstance(inner, dict):
            return  # the recipe itself is wrong here, and validation says so
        data[parent] = dict(inner)  # by an alias of YAML, two sections may be one mapping
        data = data[parent]
    data[last] = value


def value_of(recipe: BaseModel, key: str) -> Any:
    """The value of a key, of a setting of a teacher too; None for a setting that is not given."""
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def refused(error: ValidationError, where: str, changes: Mapping[str, Any], recipe: type[BaseModel]) -> ConfigError:
    """The error for the first thing that is wrong in a recipe.

    Args:
        error: Of its validation.
        where: Its name.
        changes: The keys that were set on the command line.
        recipe: The class of recipes.
    """
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if key in keys_of(recipe):
            return ConfigError(f"{where}: {key!r} is written as one key", f"write {nested(key)}, or --set {key}=...")
        return ConfigError(f"{where}: unknown key {key!r}", meant_key(key, recipe))
    # After the key, pydantic names the member of a union.
    key = next((known for known in keys_of(recipe) if known != SETTINGS and key.startswith(f"{known}.")), key)
    value, place = first.get("input"), "--set" if key in changes else f"{where}, changed by --set" if changes else where
    if first["type"] == "literal_error":
        names = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return ConfigError(f"{place}: {key} has no value {short(value)}", did_you_mean(str(value)[:100], names))
    reason = first["msg"].removeprefix("Value error, ")
    message, asks, hint = reason.partition(": did you mean ")
    message = f"{key}: {message}" if key and not message.startswith(f"{key}.") else message
    if asks:
        return ConfigError(f"{place}: {message}", f"did you mean {hint}")
    if first["type"] in {"tuple_type", "list_type"}:
        written = f"{key}=[{str(value)[:60]}]" if key in changes else f"[{str(value)[:60]}]"
        return ConfigError(f"{place}: {key} is no list", f"a list is written in brackets: {written}")
    return ConfigError(f"{place}: {message}", f"got {short(value)}")
