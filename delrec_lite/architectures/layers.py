"""Which layers of a base model a recipe keeps: the first ones, or the first and the last ones."""

import re
from typing import Any

from delrec_lite.architectures.record import settings_of
from delrec_lite.architectures.registry import find_architecture
from delrec_lite.errors import ConfigError

# `8`, or `6+2`: the first six and the last two.
Layers = int | str
FIRST_AND_LAST = re.compile(r"[1-9][0-9]{0,3}\+[1-9][0-9]{0,3}")


def check_setting(layers: Layers) -> Layers:
    """A recipe's ``model.layers``.

    Raises:
        ConfigError: It is not the number of the first layers, or of the first and of the last ones.
    """
    number = int(layers) if isinstance(layers, str) and layers.isascii() and layers.isdigit() else layers
    if isinstance(number, int) and number < 1 or isinstance(number, str) and not FIRST_AND_LAST.fullmatch(number):
        raise ConfigError(f"no layers {layers!r}", "the first ones, such as 8, or first and last ones, such as 6+2")
    return number


def layer_count(layers: Layers) -> int:
    """How many layers are kept."""
    return sum(_first_and_last(layers))


def kept_layers(layers: Layers, available: int) -> list[int]:
    """The kept layers of a model, from 0.

    Args:
        layers: As in ``model.layers`` of a recipe.
        available: Layers of the model, at least as many.
    """
    first, last = _first_and_last(layers)
    return [*range(first), *range(available - last, available)]


def keep_layers(config: Any, layers: Layers) -> list[int]:
    """Set a `transformers` configuration to the kept layers; returns them.

    Raises:
        ConfigError: See ``check_layers``.
    """
    check_layers(layers, config)
    kept = kept_layers(layers, config.num_hidden_layers)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[n] for n in kept]
    return kept


def check_layers(layers: Layers, config: Any, where: str = "the base model") -> None:
    """Refuse layers that a model does not have, or that cannot follow each other.

    Args:
        layers: As in ``model.layers`` of a recipe.
        config: The content of a config.json, or a `transformers` configuration.
        where: Name of the model in error messages.

    Raises:
        ConfigError: The model has fewer layers; or every n-th of its layers differs from the others, and those that are
            kept are not in that order.
    """
    settings = settings_of(config)
    available, count = int(settings["num_hidden_layers"]), layer_count(layers)
    if count > available:
        raise ConfigError(f"model.layers is {layers}, but {where} has {available} layers", "lower model.layers")
    every = find_architecture(str(settings.get("model_type")), where).full_attention_every
    if every and any((kept - place) % every for place, kept in enumerate(kept_layers(layers, available))):
        raise ConfigError(
            f"model.layers is {layers}, but every {every}th layer of {where} attends to all tokens, and no others do",
            f"leave out a multiple of {every} layers, or keep the first ones alone, such as {count}",
        )


def _first_and_last(layers: Layers) -> tuple[int, int]:
    if isinstance(layers, int):
        return layers, 0
    first, last = layers.split("+")
    return int(first), int(last)
