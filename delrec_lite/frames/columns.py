"""Which columns of a frame hold users, items, times and titles: the names of RecTools, or the caller's own."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from delrec_lite.data.readers import Columns
from delrec_lite.errors import UsageError, did_you_mean

# The names of RecTools; times are also found as ``timestamp``, as the files of `prepare` have them.
USER, ITEM, TIMES, TITLE, HISTORY = "user_id", "item_id", ("datetime", "timestamp"), "title", "history"
# Keys of a mapping: those of `prepare --columns`, or the usual names themselves.
_KEYS = {
    "user": "user",
    "user_id": "user",
    "item": "item",
    "item_id": "item",
    "time": "time",
    "datetime": "time",
    "timestamp": "time",
    "title": "title",
    "history": "history",
}

ColumnNames = Mapping[str, str] | Mapping[str, str | int] | str


def parse_names(columns: ColumnNames | None) -> dict[str, str]:
    """The caller's names by ``user``, ``item``, ``time``, ``title`` and ``history``.

    Args:
        columns: A mapping such as ``{"user": "uid", "item": "sku"}``, or the text of `prepare --columns`.

    Raises:
        UsageError: Another key, or no name.
    """
    if columns is None:
        return {}
    hint = 'write {"user": "uid", "item": "sku", "time": "ts", "title": "name"}'
    pairs: Iterable[tuple[str, Any]]
    if isinstance(columns, str):
        parts = [part.partition("=") for part in columns.split(",") if part.strip()]
        pairs = [(key.strip(), name.strip()) for key, _, name in parts]
    elif isinstance(columns, Mapping):
        pairs = columns.items()
    else:
        raise UsageError(f"columns is of type {type(columns).__name__} and no mapping", hint)
    names: dict[str, str] = {}
    for key, name in pairs:
        if key not in _KEYS:
            raise UsageError(f"columns: {key!r} does not name a column", did_you_mean(str(key), _KEYS))
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)  # a frame without names numbers its columns
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"columns: {key!r} has no name of a column: {name!r}", hint)
        role = _KEYS[key]
        if role in names:
            raise UsageError(f"columns: {role} has two names, {names[role]!r} and {name.strip()!r}", "give one")
        names[role] = name.strip()
    return names


def log_columns(names: Mapping[str, str], present: Collection[str]) -> Columns:
    """The columns of a log and its items.

    Args:
        names: Of ``parse_names``.
        present: Columns that the log has; they say how the times are called where the caller does not.
    """
    time = next((name for name in TIMES if name in present), TIMES[0])
    return Columns(names.get("user", USER), names.get("item", ITEM), names.get("time", time), names.get("title", TITLE))
