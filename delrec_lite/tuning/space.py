"""What `tune` may change: keys of a recipe with intervals or choices, from a YAML file or by default."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from delrec_lite.config import Recipe
from delrec_lite.errors import ConfigError, did_you_mean, not_yaml, short
from delrec_lite.recipe_keys import check_key
from delrec_lite.teacher_kinds.registry import TEACHERS

MODELS = ("student", "teacher")
_KEYS = ("low", "high", "log", "step")
_EXAMPLE = "for example `finetune.lr: {low: 1e-4, high: 2e-3, log: true}` or `finetune.rank: [8, 16]`"

# Gives the recipe with one key changed, or raises ConfigError.
Changed = Callable[[Mapping[str, Any]], Recipe]


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        key: Of the recipe.
        values: As in a recipe.
    """

    key: str
    values: tuple[Any, ...]

    def suggest(self, trial: Any) -> Any:
        """The value of an Optuna trial."""
        labels = {_label(value): value for value in self.values}
        return labels[trial.suggest_categorical(self.key, list(labels))]

    def dump(self) -> list[Any]:
        """As in the file of a space."""
        return list(self.values)


@dataclass(frozen=True)
class Interval:
    """A number between two others.

    Attributes:
        key: Of the recipe.
        low: The least value.
        high: The greatest value.
        log: Whether small and large values are tried equally often.
        step: Distance of two values; None: any number, or any integer.
        whole: Integers alone.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggest(self, trial: Any) -> float:
        """The value of an Optuna trial."""
        if self.whole:
            whole: int = trial.suggest_int(
                self.key, int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
            return whole
        # Five digits say as much and can be read.
        return float(f"{trial.suggest_float(self.key, self.low, self.high, log=self.log, step=self.step):.5g}")

    def dump(self) -> dict[str, Any]:
        """As in the file of a space."""
        return {name: getattr(self, name) for name in _KEYS if getattr(self, name) not in (None, False)}


Dimension = Choices | Interval


def default_space(recipe: Recipe, model: str) -> list[Dimension]:
    """What is worth trying: learning rates, the teacher's share and regularisation; sizes only where they are cheap.

    Of stage 1 there are few combinations, so that trials share its trainings.

    Args:
        recipe: Settings without effect on it are left out.
        model: ``student``: stages 1 and 2; ``teacher``: the recipe's teachers.
    """
    return _teacher_space(recipe) if model == "teacher" else _student_space(recipe)


def _teacher_space(recipe: Recipe) -> list[Dimension]:
    dimensions: list[Dimension] = []
    for kind in recipe.teacher.kinds:
        inside = f"{kind}." if len(recipe.teacher.kinds) > 1 else ""
        prefix, fields = f"teacher.settings.{inside}", TEACHERS[kind].settings.model_fields
        possible: list[Dimension] = [
            Interval(f"{prefix}lr", 3e-4, 1e-2, log=True),
            Interval(f"{prefix}dropout", 0.1, 0.6),
            Choices(f"{prefix}weight_decay", (0.0, 0.01, 0.1)),
            Choices(f"{prefix}hidden", (64, 128, 256)),
            Choices(f"{prefix}layers", (1, 2, 3)),
        ]
        dimensions += [dimension for dimension in possible if dimension.key.rpartition(".")[2] in fields]
    return dimensions


def _student_space(recipe: Recipe) -> list[Dimension]:
    dimensions: list[Dimension] = []
    if recipe.distill.epochs and recipe.model.pattern_prompt == "soft":
        dimensions += [Choices("distill.lr", (0.03, 0.1)), Choices("distill.temporal_share", (0.0, 0.2))]
    if not recipe.finetune.epochs:
        return dimensions
    dimensions += [
        Interval("finetune.lr", 2e-4, 2e-3, log=True),
        Interval("finetune.item_lr", 5e-4, 5e-3, log=True),
        Interval("finetune.teacher_weight", 0.0, 0.8),
        Interval("finetune.item_dropout", 0.0, 0.4),
        Interval("finetune.state_dropout", 0.0, 0.4),
    ]
    if recipe.finetune.adapter != "full":
        dimensions.append(Choices("finetune.rank", (8, 16, 32)))
    if recipe.model.item_text != "none":
        dimensions.append(Interval("finetune.text_lr", 3e-4, 3e-3, log=True))
    return dimensions


def read_space(path: Path, changed: Changed) -> list[Dimension]:
    """A space from YAML: keys of a recipe, each with a list of values, or with ``low``, ``high``, ``log``, ``step``.

    Args:
        path: The file.
        changed: Types the values and refuses wrong ones.

    Raises:
        ConfigError: The file cannot be read, a key does not exist, or a value is wrong; names the key.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the space {path} cannot be read: {error.strerror}", "check --space") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise not_yaml(path, error) from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{path} holds no space", _EXAMPLE)
    dimensions = []
    for key, value in data.items():
        check_key(str(key), Recipe, str(path))
        if key == "name":
            raise ConfigError(f"{path}: the name is no setting", "leave it out: trials get their names by number")
        dimensions.append(_dimension(str(key), value, f"{path}: {key}", changed))
    return dimensions


def _dimension(key: str, value: Any, where: str, changed: Changed) -> Dimension:
    if isinstance(value, list) and value:
        for choice in value:
            _check(key, choice, where, changed)
        return Choices(key, tuple(value))
    if not isinstance(value, dict):
        raise ConfigError(f"{where} has neither a list of values nor an interval: {short(value)}", _EXAMPLE)
    for name in value:
        if name not in _KEYS:
            raise ConfigError(f"{where}: there is no {name!r}", did_you_mean(str(name), _KEYS))
    low, high = (_number(value.get(name), f"{where}.{name}") for name in ("low", "high"))
    step = None if value.get("step") is None else _number(value["step"], f"{where}.step")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log is {short(log)}", "give true or false")
    if not low < high:
        raise ConfigError(f"{where}: low {low:g} is not below high {high:g}", _EXAMPLE)
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log needs low above 0 and no step", _EXAMPLE)
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where}: step {step:g} does not fit between {low:g} and {high:g}", _EXAMPLE)
    numbers = [number for number in (low, high, step) if number is not None]
    whole = all(number == int(number) for number in numbers)
    typed = [_check(key, int(number) if whole else number, where, changed) for number in (low, high)]
    return Interval(key, low, high, log, step, whole and not any(isinstance(number, float) for number in typed))


def _check(key: str, value: Any, where: str, changed: Changed) -> Any:
    """The value as the schema types it, if the recipe takes it.

    Raises:
        ConfigError: The key itself cannot have it; what only contradicts other keys may fit with them.
    """
    try:
        return changed({key: value}).value(key)
    except ConfigError as error:
        own = (f"{key}:", f"{key} has no value", "has no setting", f"teacher.{key.rpartition('.')[2]}:")
        if any(words in error.message for words in own):
            raise ConfigError(f"{where}: {short(value)} is no value of it: {error.message}", error.hint) from error
        return value


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where} is {short(value)}, no number", _EXAMPLE)
    return number


def _label(value: Any) -> Any:
    """What Optuna stores for a choice."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
