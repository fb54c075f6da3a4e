"""Cells of an item list that may be lists of words: of any list type of Arrow, and lists written as text."""

import ast
import json
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.data.values import as_text, is_missing


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    types = arrow().types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def cells_of(column: Any, name: str, keep_na: bool = False) -> list[Any]:
    """A column's cells: texts, or lists of texts, None for no list; lists in lists are one, missing parts left out.

    Args:
        column: A chunked array.
        name: Of file and column, for errors.
        keep_na: Words such as NULL are values.

    Raises:
        DataError: Values without text, such as mappings, also as parts of lists.
    """
    if not is_list(column.type):
        texts: list[Any] = as_text(column, name).to_pylist()
        return texts
    kind = column.type
    while is_list(kind):
        kind = kind.value_type
    cells = [None if cell is None else list(_flat(cell)) for cell in column.to_pylist()]
    if arrow().types.is_dictionary(kind):
        kind = kind.value_type
    values = arrow().array([part for cell in cells for part in cell or ()], kind)
    texts = as_text(arrow().chunked_array([values]), name).to_pylist()
    parts = iter(texts)
    taken = (None if cell is None else [next(parts) for _ in cell] for cell in cells)
    return [cell and [part for part in cell if not is_missing(part, keep_na)] for cell in taken]


def joined_parts(cell: Any) -> str:
    """A cell as one text: the parts of a list with commas between them; empty for no list."""
    if isinstance(cell, str):
        parts = written_list(cell)
        return cell if parts is None else ", ".join(parts)
    return ", ".join(cell or ())


def _flat(cell: Any) -> Any:
    for part in cell:
        if isinstance(part, list):
            yield from _flat(part)
        else:
            yield part


def written_list(text: str) -> list[str] | None:
    """The parts of a list that a text file holds as JSON or as Python writes it, ``['red', 'blue']``; None: no list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(part, str | int | float) for part in _flat(value)):
            return [str(part) for part in _flat(value)]
    return None
