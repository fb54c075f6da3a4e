"""The columns of a bundle's catalogue as arrays, for filters: category, price, genres, whatever the item list had."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.columns import LIST, NUMBER, TEXT, TRUTH, ItemColumn
from delrec_lite.data.types import Bools, Ints

# Ways in which a value compares with another.
EQUAL, LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL = "=", "<", "<=", ">", ">="
_COMPARE = {
    EQUAL: np.equal,
    LESS: np.less,
    LESS_OR_EQUAL: np.less_equal,
    GREATER: np.greater,
    GREATER_OR_EQUAL: np.greater_equal,
}
# Values of a text column that are listed for a user.
MOST_LISTED = 50


class Column:
    """A column as arrays, with one more row, which stands for every item outside the catalogue: it has no value.

    Attributes:
        name: Of the column.
        kind: See ``data.columns.ItemColumn``.
        missing: Where there is no value, bool ``[items + 1]``.

    Args:
        column: Of the whole catalogue.
    """

    def __init__(self, column: ItemColumn) -> None:
        self.name, self.kind = column.name, column.kind
        self._values = (*column.values, None)
        self.missing: Bools = np.array([value is None for value in self._values], dtype=bool)

    @cached_property
    def _numbers(self) -> npt.NDArray[np.float64]:
        """Numbers and truth values; NaN, which equals nothing, where they are missing."""
        return np.array([np.nan if value is None else value for value in self._values], dtype=np.float64)

    @cached_property
    def _coded(self) -> tuple[dict[str, int], list[str], Ints, Ints]:
        """Distinct texts by number and in order; the number and the item of every text."""
        parts: list[tuple[Any, ...]] = [
            () if value is None else value if self.kind == LIST else (value,)  # type: ignore[misc]
            for value in self._values
        ]
        texts = sorted({text for values in parts for text in values})
        numbers = {text: n for n, text in enumerate(texts)}
        codes = np.array([numbers[text] for values in parts for text in values], dtype=np.int64)
        return numbers, texts, codes, np.repeat(np.arange(len(parts)), [len(values) for values in parts])

    def compares(self, how: str, value: str | float | bool) -> Bools:
        """Where the value compares so with another of the column's own type; a missing one never does.

        Args:
            how: ``=``, ``<``, ``<=``, ``>`` or ``>=``; texts are ordered by their characters, as ISO dates are by time.
            value: A text of a text column, a number of a number column, a truth value of a truth column.

        Returns:
            bool ``[items + 1]``.
        """
        if self.kind != TEXT:
            compared: Bools = _COMPARE[how](self._numbers, float(value))
            return compared
        _, texts, codes, items = self._coded
        at = np.searchsorted(np.array(texts, dtype=object), value) if texts else 0
        is_there = bool(at < len(texts) and texts[at] == value)
        # Every text before ``at`` is smaller, those from it on are equal or larger.
        limit = at if is_there else at - 0.5
        return self._where(items[_COMPARE[how](codes, limit)])

    def has(self, values: Sequence[str]) -> Bools:
        """Where a text, or a part of a list, is one of some texts: bool ``[items + 1]``."""
        numbers, texts, codes, items = self._coded
        wanted = np.zeros(len(texts), dtype=bool)
        wanted[[numbers[value] for value in values if value in numbers]] = True
        return self._where(items[wanted[codes]])

    def is_true(self) -> Bools:
        """Where a truth value is true, or a number above 0: bool ``[items + 1]``."""
        true: Bools = self._numbers > 0
        return true

    def _where(self, items: Ints) -> Bools:
        mask = np.zeros(len(self._values), dtype=bool)
        mask[items] = True
        return mask

    def summary(self) -> dict[str, Any]:
        """What a user needs to filter by it: name, kind, how many items lack it, and its values or their range."""
        facts: dict[str, Any] = {"name": self.name, "kind": self.kind, "missing": int(self.missing[:-1].sum())}
        given = self._values[:-1]
        if self.kind == NUMBER:
            numbers = [value for value in given if value is not None]
            return facts | {"lowest": min(numbers, default=None), "highest": max(numbers, default=None)}
        if self.kind == TRUTH:
            return facts | {"true": sum(value is True for value in given)}
        _, texts, codes, _ = self._coded
        common = Counter(codes.tolist()).most_common(MOST_LISTED)
        return facts | {"values": {texts[code]: count for code, count in common}, "different": len(texts)}


class ItemColumns:
    """The columns of a catalogue by name.

    Args:
        columns: Of the whole catalogue.
        items: Its size.
    """

    def __init__(self, columns: Sequence[ItemColumn], items: int) -> None:
        self.items = items
        self._columns = {column.name: Column(column) for column in columns}

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    @property
    def names(self) -> list[str]:
        """Of all columns, in the order of the item list."""
        return list(self._columns)

    def summaries(self) -> list[dict[str, Any]]:
        """See ``Column.summary``."""
        return [column.summary() for column in self._columns.values()]
