"""Gives the item columns that a user keeps their types: the one that is named, else the one that all values have."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delrec_lite.data.cells import written_list
from delrec_lite.data.columns import (
    AVAILABLE,
    KINDS,
    LIST,
    LONGEST_NAME,
    MOST_COLUMNS,
    NUMBER,
    TEXT,
    TRUTH,
    ItemColumn,
)
from delrec_lite.data.values import is_missing
from delrec_lite.errors import DataError, UsageError

_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_ONE_OR_ZERO = {"1": True, "0": False}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
# 01234 is a code, not the number 1234.
_CODE = re.compile(r"[+-]?0\d")
# Whole numbers above it are not exact as floats: they are codes too.
_LARGEST = 2.0**53
# What stands between the parts of a list in a text file; the first that occurs counts.
_BETWEEN = "|;,"


@dataclass(frozen=True)
class ColumnSpec:
    """A column to keep, as the user names it: ``price`` or ``price:number``.

    Attributes:
        name: Of the column.
        kind: Its type; None: that of its values.
    """

    name: str
    kind: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ColumnSpec":
        """Read one; a colon in the name of a column stays, unless a type follows it."""
        name, colon, kind = text.rpartition(":")
        return cls(name.strip(), kind.strip()) if colon and kind.strip() in KINDS else cls(text.strip())


def parse_specs(texts: Sequence[str]) -> tuple[ColumnSpec, ...]:
    """Read the columns to keep.

    Raises:
        UsageError: A column is named twice, has no name or too long a one, or there are too many.
    """
    specs = tuple(ColumnSpec.parse(text) for text in texts)
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"the column {twice[0]!r} is named twice", "name each column to keep once")
    if wrong := [name for name in names if not 0 < len(name) <= LONGEST_NAME or not name.isprintable()]:
        raise UsageError(
            f"{wrong[0][:60]!r} cannot be a column to keep", f"take 1 to {LONGEST_NAME} printed characters"
        )
    if len(specs) > MOST_COLUMNS:
        raise UsageError(f"there are {len(specs)} columns to keep", f"keep at most {MOST_COLUMNS}")
    return specs


def typed_column(
    spec: ColumnSpec, cells: Sequence[Any], where: str = "", row: Any = None, keep_na: bool = False
) -> ItemColumn:
    """Give a column its type: the one that is named, else that of all its values.

    Without a name of a type, cells that are lists make a list; ``true``, ``false``, ``yes`` and ``no`` truth values;
    numbers a number, unless one is a code (``01234``, more than 2^53); anything else text.

    Args:
        spec: The column's name and, maybe, type.
        cells: Text of each row, or a list of texts.
        where: File and column, for the error.
        row: Number of the n-th row in its file, for the error; default: from 1.
        keep_na: Words such as NULL are values.

    Raises:
        DataError: A value is not of the type that is named, or ``available`` is neither a truth value nor a number.
    """
    texts = [_cleaned(cell, keep_na) for cell in cells]
    kind = spec.kind or _kind_of(texts)
    values = []
    for n, cell in enumerate(texts):
        try:
            values.append(None if cell is None else _READ[kind](cell))
        except ValueError:
            place = f"row {n + 1 if row is None else row(n)}"
            raise DataError(
                f"{where or spec.name}, {place}: {_shown(cell)} is no {_WORDS[kind]}",
                f"correct it, leave it empty, or keep the column as text: {spec.name}:text",
            ) from None
    if spec.name == AVAILABLE and kind not in (TRUTH, NUMBER) and any(value is not None for value in values):
        raise DataError(
            f"{where or spec.name} says what can be recommended, and {_shown(next(t for t in texts if t))} is neither "
            "true nor false",
            "write true and false, yes and no, or 1 and 0; or give the column another name",
        )
    return ItemColumn(spec.name, kind, tuple(values))


def _cleaned(cell: Any, keep_na: bool) -> Any:
    """A cell without needless spaces; None where it is missing. An empty list is no missing one."""
    if isinstance(cell, list | tuple):
        parts = (" ".join(str(part).split()) for part in cell if part is not None)
        return tuple(part for part in parts if not is_missing(part, keep_na))
    text = "" if cell is None else " ".join(str(cell).split())
    return None if is_missing(text, keep_na) else text


def _kind_of(cells: Sequence[Any]) -> str:
    given = [cell for cell in cells if cell is not None]
    if any(isinstance(cell, tuple) for cell in given):
        return LIST
    if given and all(cell.lower() in _TRUTH for cell in given):
        return TRUTH
    return NUMBER if given and all(map(_is_number, given)) else TEXT


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and not _CODE.match(text) and abs(float(text)) <= _LARGEST


def _text(cell: Any) -> str:
    return ", ".join(cell) if isinstance(cell, tuple) else cell


def _number(cell: Any) -> float:
    text = _text(cell)
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _truth(cell: Any) -> bool:
    text = _text(cell).lower()
    if text not in _TRUTH and text not in _ONE_OR_ZERO:
        raise ValueError(text)
    return (_TRUTH | _ONE_OR_ZERO)[text]


def _list(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, tuple):
        return tuple(dict.fromkeys(cell))
    between = next((sign for sign in _BETWEEN if sign in cell), "|")
    parts = written_list(cell) or cell.split(between)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


_READ: Mapping[str, Any] = {TEXT: _text, NUMBER: _number, TRUTH: _truth, LIST: _list}
_WORDS = {NUMBER: "number", TRUTH: "truth value (true, false, yes, no, 1, 0)"}


def _shown(cell: Any) -> str:
    shown = repr(_text(cell))
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
