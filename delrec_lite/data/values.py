"""Columns of ids and titles as text: numbers, UUIDs and bytes become text, and words for missing values are known."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from delrec_lite.data.packages import arrow
from delrec_lite.data.types import Ints
from delrec_lite.errors import DataError

# How databases, spreadsheets and languages write that there is no value.
MISSING = frozenset(
    ("", "NULL", "null", "Null", "(null)", "#NULL!", "\\N", "None", "NONE", "none", "nil", "undefined")
    + ("nan", "NaN", "NAN", "Nan", "-nan", "-NaN", "NaT", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA")
)
UUID_BYTES = 16


def is_missing(text: str, keep_na: bool) -> bool:
    """Whether a cell has no value; with ``keep_na`` only an empty one has none."""
    return not text or (not keep_na and text in MISSING)


def missing(texts: Sequence[str], keep_na: bool) -> npt.NDArray[np.bool_]:
    """``is_missing`` of several cells."""
    return np.array([is_missing(text, keep_na) for text in texts], dtype=bool)


def why_missing(text: str) -> str:
    """What is wrong with a cell that has no value, after the name of its column: ``is empty``."""
    return f"is {text!r}, a missing value" if text else "is empty"


def as_text(column: Any, name: str = "a column") -> Any:
    """An Arrow column as stripped strings.

    Null and nan become empty, whole numbers have no decimal point, 16 bytes that are no text are written as a UUID.

    Args:
        column: A chunked array.
        name: Of file and column, for errors.

    Raises:
        DataError: A type that has no text, such as a list.
    """
    pa = arrow()
    kind = column.type
    try:
        if isinstance(kind, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in column.chunks]
            return as_text(pa.chunked_array(chunks, kind.storage_type), name)
        if pa.types.is_dictionary(kind):
            return as_text(column.cast(kind.value_type), name)
        if pa.types.is_floating(kind):
            column = pa.compute.if_else(pa.compute.is_nan(column), pa.scalar(None, kind), column)
            with suppress(pa.ArrowInvalid):
                column = column.cast(pa.int64())
        if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = _text_of_bytes(column, name)
        if pa.types.is_nested(kind):
            raise pa.ArrowInvalid("nested")
        return pa.compute.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"{name} has values of type {kind}, not text or numbers", "write them as text") from error


def _text_of_bytes(column: Any, name: str) -> Any:
    """A column of bytes: text where they are text, or UUIDs where each has 16 bytes."""
    pa = arrow()
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    values = coded.dictionary.to_pylist()
    try:
        texts = [value.decode() for value in values]
        plain = all(text.isprintable() for text in texts)
    except UnicodeDecodeError:
        plain = False
    if not plain:
        wrong = next((value for value in values if len(value) != UUID_BYTES), None)
        if wrong is not None:
            raise DataError(
                f"{name} holds bytes that are neither text nor UUIDs: {wrong[:20]!r}", "write them as text, such as hex"
            )
        texts = [str(UUID(bytes=value)) for value in values]
    return pa.chunked_array([pa.array(texts, pa.string()).take(coded.indices)])


def distinct(column: Any, name: str = "a column") -> tuple[Ints, tuple[str, ...]]:
    """A column of ids as indices into its distinct values."""
    coded = as_text(column, name).dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(coded, arrow().ChunkedArray):  # there are no chunks
        return np.empty(0, np.int64), ()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), tuple(coded.dictionary.to_pylist())
