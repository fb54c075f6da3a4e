"""Columns of lists, such as histories: Arrow lists of any values, JSON lists, or text with separators."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from delrec_lite.data.cells import is_list
from delrec_lite.data.packages import arrow
from delrec_lite.data.types import Ints
from delrec_lite.data.values import as_ids
from delrec_lite.errors import DataError

_BETWEEN = re.compile(r"[\s,;|]+")
# What Python writes for a list or an array, as a frame with a column of lists becomes CSV: ['a', 'b'] or ['a' 'b'].
_WRITTEN = re.compile(r"""'([^'\\]*)'|"([^"\\]*)"|([^\s,'"\[\]\\]+)""")
_WHOLE = re.compile(r"^(-?\d+)\.0*$")
_WRITTEN_LIST = re.compile(rf"\[\s*(?:(?:{_WRITTEN.pattern})(?:\s*,\s*|\s+|(?=\s*\])))*\s*\]")


def lists_of(column: Any, name: str) -> tuple[Any, Ints]:
    """The values of a column of lists, one after another, and the length of each list; -1 where there is no list.

    Args:
        column: An array or a chunked array of lists, or of text: JSON lists, or ids with spaces, commas, semicolons or
            bars between them.
        name: Of the column, for errors.

    Returns:
        Values as an Arrow array of strings ``[values]``, a missing one is empty; lengths, int64 ``[rows]``.

    Raises:
        DataError: The column holds neither lists nor text, or lists of values that have no text.
    """
    pa = arrow()
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([column], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or not len(column):  # without a value, the type says nothing
        column = pa.chunked_array([pa.nulls(len(column), pa.list_(pa.string()))])
    if not is_list(column.type):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"{name} holds {column.type} and no lists", "name a column of lists, or of item ids")
        lists = [list_in(text) for text in column.to_pylist()]
        values = [value for given in lists for value in given or ()]
        return pa.array(values, pa.string()), np.array(
            [-1 if given is None else len(given) for given in lists], np.int64
        )
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = pa.compute.list_value_length(column).fill_null(-1).to_numpy().astype(np.int64)
    values = pa.compute.list_flatten(column)
    return as_ids(pa.chunked_array(values.chunks, values.type), name).combine_chunks(), lengths


def list_in(value: Any) -> list[str] | None:
    """The ids in a JSON list, or in a text: a JSON list, or ids with spaces, commas, semicolons or bars between them.

    Returns:
        A missing value of a list is empty. None for an empty text, and for anything else.
    """
    if isinstance(value, str):
        text = value.strip()
        if text and not text.startswith("["):
            return [part for part in _BETWEEN.split(text) if part]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = _written(text)
    if not isinstance(value, list):
        return None
    texts = [text_in(part) for part in value]
    return None if None in texts else texts  # type: ignore[return-value]


def _written(text: str) -> list[str] | None:
    """The values of a list or an array as Python prints it; None for anything else, and for a shortened one."""
    if not _WRITTEN_LIST.fullmatch(text):
        return None
    parts = _WRITTEN.findall(text)
    values = [once or twice or _WHOLE.sub(r"\1", plain) for once, twice, plain in parts]
    return None if "..." in values else ["" if value in ("None", "nan") else value for value in values]


def text_in(value: Any) -> str | None:
    """A JSON value as text: empty for null and nan, no decimal point in a whole number; None for anything else."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def split_lists(values: Sequence[str], lengths: Ints) -> Iterator[list[str] | None]:
    """The lists that ``lists_of`` took apart; None where there is none."""
    end = 0
    for length in lengths.tolist():
        start, end = end, end + max(0, length)
        yield None if length < 0 else list(values[start:end])
