"""Columns of the item list that are kept beside the titles, each with one type: category, price, genres, available."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TEXT, NUMBER, TRUTH, LIST = "text", "number", "truth", "list"
KINDS = (TEXT, NUMBER, TRUTH, LIST)
# An item's value; None: missing.
Value = str | float | bool | tuple[str, ...] | None
# The column that says which items can be recommended at first.
AVAILABLE = "available"
MOST_COLUMNS, LONGEST_NAME = 100, 100


@dataclass(frozen=True)
class ItemColumn:
    """A column of the item list.

    Attributes:
        name: As the item list has it.
        kind: ``text``, ``number``, ``truth`` or ``list`` (of texts).
        values: ``str``, ``float``, ``bool`` or a tuple of ``str`` for each item; None where it is missing.
    """

    name: str
    kind: str
    values: tuple[Value, ...]

    def take(self, items: Sequence[int]) -> "ItemColumn":
        """The column of some items."""
        return ItemColumn(self.name, self.kind, tuple(self.values[item] for item in items))


@dataclass(frozen=True)
class ItemRows:
    """Columns by the rows of an item list.

    Attributes:
        ids: Item id of each row.
        columns: Their values, in the same order.
    """

    ids: Sequence[str] = ()
    columns: tuple[ItemColumn, ...] = ()

    def of(self, ids: Sequence[str]) -> tuple[ItemColumn, ...]:
        """The columns of items by their ids; an id's first row counts, and a missing id has no values."""
        rows: dict[str, int] = {}
        for row, item in enumerate(self.ids):
            rows.setdefault(item, row)
        order = [rows.get(item, -1) for item in ids]
        return tuple(
            ItemColumn(c.name, c.kind, tuple(c.values[row] if row >= 0 else None for row in order))
            for c in self.columns
        )


NO_COLUMNS = ItemRows()


def dump_columns(columns: Sequence[ItemColumn]) -> dict[str, Any]:
    """As JSON; ``load_columns`` reads it back."""
    return {"columns": [{"name": c.name, "kind": c.kind, "values": list(c.values)} for c in columns]}


def columns_fingerprint(columns: Sequence[ItemColumn]) -> str:
    """sha256 over names, types and values."""
    return hashlib.sha256(json.dumps(dump_columns(columns)).encode()).hexdigest()


def load_columns(content: Any, items: int) -> tuple[ItemColumn, ...]:
    """Read columns from JSON.

    Args:
        content: As ``dump_columns`` wrote it.
        items: How many values each column has.

    Raises:
        ValueError: What is wrong with it.
    """
    entries = content.get("columns") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > MOST_COLUMNS:
        raise ValueError("it holds no list of columns")
    columns = tuple(_load_column(entry, items) for entry in entries)
    if len({column.name for column in columns}) < len(columns):
        raise ValueError("two columns have the same name")
    return columns


def _load_column(entry: Any, items: int) -> ItemColumn:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("name"), str)
        or not isinstance(entry.get("values"), list)
    ):
        raise ValueError("a column has no name or no values")
    name, kind, values = entry["name"], entry.get("kind"), entry["values"]
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ValueError(f"{name[:60]!r} is no name of a column")
    if kind not in KINDS:
        raise ValueError(f"column {name!r} is of the unknown type {kind!r}")
    if len(values) != items:
        raise ValueError(f"column {name!r} has {len(values)} values for {items} items")
    loaded = tuple(tuple(value) if kind == LIST and isinstance(value, list) else value for value in values)
    wrong = next((value for value in loaded if value is not None and not _is_of(kind, value)), None)
    if wrong is not None:
        raise ValueError(f"column {name!r} holds {str(wrong)[:60]!r}, which is no {kind}")
    return ItemColumn(name, kind, tuple(float(v) if kind == NUMBER and v is not None else v for v in loaded))  # type: ignore[arg-type]


def _is_of(kind: str, value: Any) -> bool:
    if kind == NUMBER:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind == LIST:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return isinstance(value, bool if kind == TRUTH else str)
