"""Every environment variable that this program reads is read here: switches, numbers, folders, sizes."""

import os
from pathlib import Path

from delrec_lite.errors import UsageError

_OFF = {"", "0", "false", "f", "no", "n", "off", "none"}


def text(name: str) -> str:
    """A variable without spaces around it; empty if it is unset."""
    return os.environ.get(name, "").strip()


def flag(name: str) -> bool:
    """Whether a switch is on; unset, empty, ``0``, ``false``, ``no``, ``off`` and ``none`` in any case are off."""
    return not is_off(text(name))


def number(name: str, default: int, least: int = 0) -> int:
    """A whole number; ``default`` if the variable is unset or empty.

    Raises:
        UsageError: It is no whole number, or below ``least``.
    """
    value = text(name)
    if not value:
        return default
    if not value.isdecimal() or int(value) < least:
        raise UsageError(
            f"the environment variable {name} is {value!r}", f"set it to a whole number from {least} on, or unset it"
        )
    return int(value)


def folder(name: str) -> Path | None:
    """A folder, in which ``~`` is the home folder; None if the variable is unset or empty.

    Raises:
        UsageError: It begins with ``~``, and there is no such home folder.
    """
    value = text(name)
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise UsageError(f"the environment variable {name} is {value!r}: no home folder", "name the folder") from error


def those_set(*names: str) -> dict[str, str]:
    """The variables of these names that are set, as they are."""
    return {name: os.environ[name] for name in names if name in os.environ}


def settings(prefix: str) -> dict[str, str]:
    """The variables that begin with a prefix and hold something, by the rest of their name in lower case."""
    names = (name for name in os.environ if name.startswith(prefix))
    return {name.removeprefix(prefix).lower(): value for name in names if (value := text(name))}


def is_off(value: str) -> bool:
    """Whether a switch of this value is off."""
    return value.strip().lower() in _OFF


# With 0 columns rich prints nothing, with millions it needs all memory.
_SIZES = {"COLUMNS": (20, 10_000), "LINES": (2, 10_000), "TERMINAL_WIDTH": (20, 10_000)}


def unusable_sizes() -> list[str]:
    """The variables with the terminal's size whose value is no size."""
    return [name for name, (least, most) in _SIZES.items() if not _is_size(os.environ.get(name), least, most)]


def drop_unusable_sizes() -> None:
    """Remove ``unusable_sizes`` from the environment, so that the terminal itself is asked."""
    for name in unusable_sizes():
        del os.environ[name]


def _is_size(value: str | None, least: int, most: int) -> bool:
    return value is None or (value.isascii() and value.isdigit() and len(value) < 9 and least <= int(value) <= most)
