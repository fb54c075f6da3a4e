"""Environment variables: switches such as ``DELREC_OFFLINE``, and the size of the terminal."""

import os

_OFF = {"", "0", "false", "no", "off"}


def flag(name: str) -> bool:
    """Whether a variable is on; unset, empty, ``0``, ``false``, ``no`` and ``off`` in any case are off."""
    return os.environ.get(name, "").strip().lower() not in _OFF


# With 0 columns rich prints nothing, with millions it needs all memory.
_SIZES = {"COLUMNS": (20, 10_000), "LINES": (2, 10_000), "TERMINAL_WIDTH": (20, 10_000)}


def unusable_sizes() -> list[str]:
    """The variables with the terminal's size whose value is no size."""
    return [name for name, (least, most) in _SIZES.items() if not _is_size(os.environ.get(name), least, most)]


def drop_unusable_sizes() -> None:
    """Remove ``unusable_sizes`` from the environment, so that the terminal itself is asked."""
    for name in unusable_sizes():
        del os.environ[name]


def _is_size(text: str | None, least: int, most: int) -> bool:
    return text is None or (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most)
