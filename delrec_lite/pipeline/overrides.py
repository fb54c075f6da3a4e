"""``--set KEY=VALUE``: changes to a recipe from the command line; several values of a key are a grid of trials.

A value is written as in a recipe. Commas outside of brackets and quotes separate the values of a sweep, so a list,
which is one value, has brackets: ``teacher.kind=[sasrec, gru4rec]`` is one recipe, ``teacher.kind=sasrec,gru4rec`` two.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from delrec_lite.config import Recipe, load_recipe
from delrec_lite.errors import UsageError, not_yaml

_FOR_EXAMPLE = "for example --set finetune.lr=5e-4"
_NONE = frozenset({"null", "Null", "NULL", "~"})
_OPENING, _CLOSING = "[{", "]}"

# The values of each key, as the schema will type them: one, or those of a sweep.
Values = Mapping[str, Sequence[Any]]


def parse_sets(options: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each key that ``--set`` names.

    Args:
        options: Such as ``finetune.lr=1e-4,5e-4``.

    Raises:
        UsageError: No key or no value, or a key twice.
        ConfigError: A list or mapping that is not YAML.
    """
    values: dict[str, list[Any]] = {}
    for option in options:
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise UsageError(f"--set {option!r} is not KEY=VALUE", _FOR_EXAMPLE)
        if key in values:
            raise UsageError(f"--set {key} is given twice", f"several values are a sweep: --set {key}=1,2")
        parts = [part.strip() for part in _split(text)]
        if not all(parts):
            raise UsageError(
                f"--set {option!r} has no value", f"{_FOR_EXAMPLE}; null for none, '\"\"' for an empty text"
            )
        values[key] = [_value(part, f"--set {key}") for part in parts]
    return values


def load_changed(name_or_path: str, options: Sequence[str] | None) -> Recipe:
    """A recipe with the changes of ``--set``.

    Args:
        name_or_path: See ``load_recipe``.
        options: See ``parse_sets``.

    Raises:
        UsageError: Several values of a key, which only ``train`` takes.
        ConfigError: See ``load_recipe``.
    """
    return load_recipe(name_or_path, one_each(parse_sets(options or ())))


def one_each(values: Values) -> dict[str, Any]:
    """The value of each key, where it has one.

    Raises:
        UsageError: A key has several.
    """
    if swept := next((key for key, some in values.items() if len(some) > 1), None):
        raise UsageError(
            f"--set {swept} has {len(values[swept])} values, and only `train` runs a sweep",
            f"train the sweep, then give one value here; a list is one value in brackets: --set {swept}=[...]",
        )
    return {key: some[0] for key, some in values.items()}


def grid(name_or_path: str, values: Values) -> Iterator[tuple[Recipe, tuple[str, ...]]]:
    """The recipe of every combination of values, and the keys with several values.

    Raises:
        UsageError: Two combinations are the same recipe, or the name has several values.
        ConfigError: A combination is invalid; see ``load_recipe``.
    """
    swept = tuple(key for key, some in values.items() if len(some) > 1)
    if "name" in swept:
        raise UsageError("--set name has several values", "trials get their names from the other keys")
    made: list[dict[str, Any]] = []
    for combination in itertools.product(*values.values()):
        changes = dict(zip(values, combination, strict=True))
        recipe = load_recipe(name_or_path, changes)
        if recipe.dump() in made:
            raise UsageError(f"--set gives the same trial twice: {shown(recipe, swept)}", "give each value once")
        made.append(recipe.dump())
        yield recipe, swept


def shown(recipe: Recipe, keys: Sequence[str]) -> str:
    """Keys of a recipe with their values, for a person."""
    return ", ".join(f"{key}={recipe.value(key)}" for key in keys)


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and parts[-1].rstrip()[-1:] in ("", *_OPENING, ",", ":"):
            quote = letter  # a quote inside a word is none
        elif letter in _OPENING and (depth or not parts[-1].strip()):
            depth += 1
        elif letter in _CLOSING and depth:
            depth -= 1
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def _value(text: str, where: str) -> Any:
    """Texts, lists and mappings of a value; the recipe's schema types the texts."""
    if text[0] not in "\"'[{":
        return None if text in _NONE else text
    try:
        return _plain(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise not_yaml(where, error) from error


def _plain(node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(inner) for inner in node.value]
    if isinstance(node, yaml.MappingNode):
        return {_plain(key): _plain(inner) for key, inner in node.value}
    return None if node.tag == "tag:yaml.org,2002:null" else node.value
