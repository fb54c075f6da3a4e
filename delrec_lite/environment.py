"""Boolean environment variables, such as ``DELREC_OFFLINE`` and ``DELREC_DEBUG``."""

import os

_OFF = {"", "0", "false", "no", "off"}


def flag(name: str) -> bool:
    """Whether a variable is on; unset, empty, ``0``, ``false``, ``no`` and ``off`` in any case are off."""
    return os.environ.get(name, "").strip().lower() not in _OFF
