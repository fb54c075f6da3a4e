"""Options of a command from a YAML file and from the environment: command line > environment > file > default."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from delrec_lite import environment
from delrec_lite.errors import ConfigError, DelrecError, UsageError, did_you_mean, not_yaml, short

# Options that are about the settings themselves.
_NOT_SET = frozenset({"help", "config", "show_settings"})
_MOST_BYTES = 1_000_000


def read_settings(context: typer.Context, path: Path | None, prefix: str) -> None:
    """Make the file's and the environment's values the defaults of a command's options.

    Args:
        context: Of the command, before its options are read.
        path: A YAML mapping of option names, with ``_`` for ``-``; None: ``PREFIX_CONFIG``, if it is set.
        prefix: Of the environment variables, ``DELREC_SERVE_``.

    Raises:
        ConfigError: The file cannot be read, has another key, or a value that its option does not take.
        UsageError: A variable has such a value.
    """
    options = {parameter.name: parameter for parameter in context.command.params if parameter.name not in _NOT_SET}
    variables = environment.settings(prefix)
    config = variables.pop("config", None)
    path = path or (Path(config) if config else None)
    found: dict[str, tuple[Any, str]] = {}
    for name, value in ({} if path is None else _read(path, list(options))).items():
        found[name] = _checked(context, options[name], value, ConfigError(f"{path}: {name}")), str(path)
    for name, value in variables.items():
        variable = f"{prefix}{name.upper()}"
        if name not in options:
            names = [f"{prefix}{option.upper()}" for option in options]
            nearest = did_you_mean(variable, names).partition("? ")
            _warn(f"{variable} is set, and there is no such setting", f"{nearest[0]}?" if nearest[1] else "unset it")
            continue
        error = UsageError(f"the environment variable {variable}")
        found[name] = _checked(context, options[name], _of_text(options[name], value), error), variable
    context.default_map = {name: value for name, (value, _) in found.items()}
    context.obj = {name: source for name, (_, source) in found.items()}


def shown_settings(context: typer.Context) -> str:
    """Every setting with where it comes from, as YAML that ``--config`` reads."""
    lines = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _NOT_SET:
            continue
        source = context.get_parameter_source(name)
        origin = {"COMMANDLINE": "command line", "DEFAULT_MAP": context.obj.get(name, "")}.get(
            source.name if source else "", "default"
        )
        lines.append(f"{name}: {json.dumps(_plain(context.params.get(name)))}  # {origin}")
    return "\n".join(lines)


def _read(path: Path, names: list[str]) -> dict[str, Any]:
    """The mapping in a file; keys without a value are left out."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} has over {_MOST_BYTES} bytes", "give a file of settings")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings in {path} cannot be read: {error.strerror}", "check --config") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a day that no month has
        raise not_yaml(path, error) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no settings", "give a mapping such as `port: 8080`")
    for key in data:
        if key not in names:
            name = key if isinstance(key, str) else short(key)
            raise ConfigError(f"{path}: there is no setting {name[:80]!r}", did_you_mean(name[:80], names))
    return {key: value for key, value in data.items() if value is not None}


def _of_text(option: Any, value: str) -> Any:
    """A variable's value in the form that a file has."""
    if getattr(option, "is_flag", False):
        return False if environment.is_off(value) else True if value.lower() in _ON else value
    return [part for part in re.split(r"[\s,]+", value) if part] if getattr(option, "multiple", False) else value


_ON = frozenset({"1", "true", "t", "yes", "y", "on"})


def _checked(context: typer.Context, option: Any, value: Any, error: DelrecError) -> Any:
    """A value as the command line would have it; ``error`` names its place."""
    is_list, is_flag = getattr(option, "multiple", False), getattr(option, "is_flag", False)
    values = value if is_list and isinstance(value, list) else [value]
    message = f"{error.message} is {short(value)}"
    if is_flag and not isinstance(value, bool):
        raise type(error)(message, "give true or false")
    if not is_flag and not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in values):
        raise type(error)(message, "give a text or a number" + ", or a list" * is_list)
    texts = value if is_flag else [str(part) for part in values] if is_list else str(value)
    try:
        option.process_value(context, texts)
    except typer.BadParameter as wrong:
        hint = wrong.message.rstrip(".").replace("Input should", "it should")
        raise type(error)(message, hint) from wrong
    return texts


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _warn(warning: str, hint: str) -> None:
    line: Mapping[str, str] = {"warning": warning, "hint": hint}
    print(json.dumps(line), file=sys.stderr)
