"""Checks the arguments of a caller from Python: lists of titles, item indices and numbers in all their forms."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from delrec_lite.errors import UsageError

# A title, ``id:<item id>``, or a number that is an item id.
Title = str | int
Titles = Iterable[Title]


def titles_in(values: Any, where: str, ordered: bool = False) -> list[Title]:
    """The titles in a list, tuple, array, Series, generator or another series of values.

    Args:
        values: The argument.
        where: Its name, for the error.
        ordered: The order counts, so that a set is refused.

    Raises:
        UsageError: It is no such series, such as one text alone, or a value is neither a title nor an id.
    """
    return [title_of(value, f"{where}[{n}]") for n, value in enumerate(values_in(values, where, ordered))]


def values_in(values: Any, where: str, ordered: bool = False) -> list[Any]:
    """The values of a series of any kind.

    Raises:
        UsageError: It is none.
    """
    if isinstance(values, str | bytes):
        raise UsageError(f"{where} is one text and no list: {_shown(values)}", f"give a list: [{_shown(values)}]")
    if values is None:
        raise UsageError(f"{where} is None", "give a list; an empty one where there is nothing")
    if isinstance(values, Mapping) or getattr(values, "ndim", 1) != 1:
        raise UsageError(
            f"{where} is of type {_kind(values)} and no list", "give its values in one dimension, in order"
        )
    if ordered and isinstance(values, set | frozenset):
        raise UsageError(f"{where} is of type {_kind(values)}, which has no order", "give a list, oldest first")
    try:
        return list(values.to_pylist() if hasattr(values, "to_pylist") else values)  # Arrow's values are no texts
    except TypeError as error:
        raise UsageError(f"{where} is of type {_kind(values)} and no list", "give a list") from error


def lists_in(values: Any, where: str, count: int) -> list[Any]:
    """One list, or None, for each of ``count`` histories; all None where nothing is given.

    Raises:
        UsageError: It is no series, or has another length.
    """
    lists = [None] * count if values is None else values_in(values, where, ordered=True)
    if len(lists) != count:
        raise UsageError(
            f"{where} has {len(lists)} entries for {count} histories", "give one list for each history, or None"
        )
    return lists


def title_of(value: Any, where: str) -> Title:
    """A title as ``str``, or an item id that is a number as ``int``, whatever package they come from.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(value, str):
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where} is no valid text: {_shown(text)}", "give it as UTF-8") from error
        return text
    if (number := _whole(value)) is not None:
        return number
    hint = "give titles, or ids as whole numbers or id:<item id>"
    raise UsageError(f"{where} is neither a title nor an id: {_shown(value)}", hint)


def check_k(k: Any) -> int:
    """How many items to return, as ``int``.

    Raises:
        UsageError: No whole number above 0.
    """
    number = _whole(k)
    if number is None or number < 1:
        raise UsageError(f"k is {_shown(k)}", "set k to a whole number, 1 or more")
    return number


def indices_in(values: Any, where: str, items: int) -> list[int]:
    """Item indices of any integer type.

    Args:
        values: The argument.
        where: Its name, for the error.
        items: Size of the catalogue.

    Raises:
        UsageError: A value is no index of the catalogue.
    """
    given = values_in(values, where, ordered=True)
    numbers = [_whole(value) for value in given]
    indices = [number for number in numbers if number is not None and 0 <= number < items]
    if len(indices) < len(numbers):
        wrong = next(n for n, number in enumerate(numbers) if number is None or not 0 <= number < items)
        raise UsageError(
            f"no item has the index {_shown(given[wrong])}: {where}[{wrong}]", f"items are 0 to {items - 1}"
        )
    return indices


def index_rows(rows: Any, where: str, items: int) -> list[list[int]]:
    """``indices_in`` of each row; a matrix of indices is a series of rows."""
    values = list(rows) if getattr(rows, "ndim", 1) > 1 else values_in(rows, where, ordered=True)
    return [indices_in(row, f"{where}[{n}]", items) for n, row in enumerate(values)]


def _whole(value: Any) -> int | None:
    """A whole number of any type; None for anything else, truth values included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _kind(value: Any) -> str:
    return type(value).__name__
