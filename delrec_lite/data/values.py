"""Columns of ids and titles as text: numbers, UUIDs and bytes become text, and words for missing values are known."""

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
# From it on a float of so many bits does not hold every whole number.
_INEXACT = {16: 2.0**11, 32: 2.0**24, 64: 2.0**53}


def is_missing(text: str, keep_na: bool) -> bool:
    """Whether a cell has no value; with ``keep_na`` only an empty one has none."""
    return not text or (not keep_na and text in MISSING)


def missing(texts: Any, keep_na: bool) -> npt.NDArray[np.bool_]:
    """``is_missing`` of the cells of an Arrow array of text."""
    pa = arrow()
    words = pa.array([""] if keep_na else sorted(MISSING), pa.string())
    return np.asarray(pa.compute.is_in(texts, value_set=words).to_numpy(zero_copy_only=False), dtype=bool)


def why_missing(text: str) -> str:
    """What is wrong with a cell that has no value, after the name of its column: ``is empty``."""
    return f"is {text!r}, a missing value" if text else "is empty"


def as_ids(column: Any, name: str = "a column") -> Any:
    """``as_text`` of a column of ids.

    Raises:
        DataError: See ``as_text``; or floats so large that ids which differ may have become equal.
    """
    pa = arrow()
    values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64())
        large = pa.compute.greater_equal(pa.compute.abs(numbers), _INEXACT[values.type.bit_width])
        wrong = numbers.filter(pa.compute.and_(large, pa.compute.is_finite(numbers)))
        if len(wrong):
            raise DataError(
                f"{name} has ids that are floats of {values.type.bit_width} bits, too large to be exact, such as "
                f"{wrong[0].as_py():.0f}",
                "write them as whole numbers or as text; pandas makes floats of whole numbers where one is missing",
            )
    return as_text(column, name)


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
            column = _text_of_floats(column)
        if pa.types.is_decimal(kind):
            column = pa.compute.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
        if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = _text_of_bytes(column, name)
        if pa.types.is_nested(kind):
            raise pa.ArrowInvalid("nested")
        return pa.compute.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"{name} has values of type {kind}, not text or numbers", "write them as text") from error


def _text_of_floats(column: Any) -> Any:
    """A column of floats as text, each by itself, so that it does not matter which rows are read together."""
    pa = arrow()
    is_whole = pa.compute.and_(
        pa.compute.equal(column, pa.compute.floor(column)), pa.compute.less(pa.compute.abs(column), 2.0**63)
    ).fill_null(False)
    whole = pa.compute.if_else(is_whole, column, pa.scalar(0, column.type)).cast(pa.int64()).cast(pa.string())
    texts = pa.compute.if_else(is_whole, whole, column.cast(pa.string()))
    return pa.compute.if_else(pa.compute.is_nan(column), pa.scalar(None, pa.string()), texts)


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


def distinct(column: Any, name: str = "a column") -> tuple[Ints, Any]:
    """A column of ids as indices into its distinct values, an Arrow array of text."""
    pa = arrow()
    if pa.types.is_integer(column.type):
        # Fewer values become text; whole numbers that differ have texts that differ.
        coded = _encoded(column)
        texts = as_text(pa.chunked_array([coded.dictionary]), name).combine_chunks()
        if coded.null_count:
            texts = pa.concat_arrays([texts, pa.array([""], pa.string())])
        return _indices(coded.indices.fill_null(len(coded.dictionary))), texts
    coded = _encoded(as_ids(column, name))
    return _indices(coded.indices), coded.dictionary


def _encoded(column: Any) -> Any:
    pa = arrow()
    coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):  # there are no chunks
        return pa.array([], column.type).dictionary_encode()
    return coded


def _indices(indices: Any) -> Ints:
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)
