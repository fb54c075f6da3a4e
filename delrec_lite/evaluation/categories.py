"""Categories of items by a column of the item list, and how far a list's categories differ from those of a history."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from delrec_lite.data.columns import AVAILABLE, LIST, TEXT, TRUTH, ItemColumn
from delrec_lite.data.sequences import blocks_of
from delrec_lite.data.types import Floats, Ints
from delrec_lite.evaluation.metrics import Lists
from delrec_lite.evaluation.significance import Doubles

# Share of the history's distribution in that of the list, so that a missing category costs no infinity (Steck 2018).
ALPHA = 0.01
# A text column with more values is no category.
MOST_VALUES = 100
# Interactions whose categories are counted at once.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Categories:
    """The categories of each item.

    Attributes:
        column: Its name.
        shares: The share of each category in an item, float32 ``[items, categories]``: a row's sum is 1, or 0 for an
            item without any.
    """

    column: str
    shares: Floats

    @classmethod
    def of(cls, columns: Sequence[ItemColumn]) -> "Categories | None":
        """Of the first list column, else of the text column with the fewest values; None where there is neither."""
        values = {column.name: column_values(column) for column in columns if column.kind in {LIST, TEXT}}
        counts = {name: len({value for own in each for value in own}) for name, each in values.items()}
        lists = [c.name for c in columns if c.kind == LIST]
        texts = sorted((c.name for c in columns if c.kind == TEXT), key=lambda name: counts[name])
        for name in (*lists, *texts):
            if 2 <= counts[name] <= MOST_VALUES:
                numbers = {value: n for n, value in enumerate(sorted({v for own in values[name] for v in own}))}
                shares = np.zeros((len(values[name]), len(numbers)), np.float32)
                for item, own in enumerate(values[name]):
                    shares[item, [numbers[value] for value in own]] = 1 / max(1, len(own))
                return cls(name, shares)
        return None

    def miscalibration(self, lists: Lists, histories: Sequence[Ints]) -> Doubles:
        """How far each list's categories are from its history's: the Kullback-Leibler divergence, in nats.

        Steck, Calibrated recommendations (RecSys 2018), with equal weights of the items.

        Args:
            lists: See ``Ranks``.
            histories: Of the same users.

        Returns:
            float64 ``[users]``, nan where the history or the list has no item with a category.
        """
        lengths = np.array([len(history) for history in histories], np.int64)
        out = np.empty(len(lists))
        for start, stop in blocks_of(lengths, BLOCK):
            users = np.repeat(np.arange(stop - start), lengths[start:stop])
            wanted = self._distribution(np.concatenate(histories[start:stop]), users, stop - start)
            rows, places = np.nonzero(lists[start:stop] >= 0)
            given = self._distribution(lists[start:stop][rows, places].astype(np.int64), rows, stop - start)
            mixed = (1 - ALPHA) * given + ALPHA * wanted
            ratio = np.divide(wanted, mixed, out=np.ones_like(wanted), where=wanted > 0)
            out[start:stop] = np.where(wanted > 0, wanted * np.log(ratio), wanted).sum(1)  # nan stays nan
        return out

    def _distribution(self, items: Ints, users: Ints, count: int) -> Doubles:
        """The mean of the items' categories for each user, float64 ``[users, categories]``; nan without any."""
        sums = np.zeros((count, self.shares.shape[1]))
        np.add.at(sums, users, self.shares[items])
        with np.errstate(invalid="ignore"):
            means: Doubles = sums / sums.sum(1, keepdims=True)
        return means


def column_values(column: ItemColumn) -> list[tuple[str, ...]]:
    """The values of each item, as texts, each once; none where it is missing."""
    return [
        () if value is None else tuple(dict.fromkeys(map(str, value if isinstance(value, tuple) else (value,))))
        for value in column.values
    ]


def features(columns: Sequence[ItemColumn]) -> list[list[str]]:
    """Each item's features: ``column=value`` of every list, truth and category column; empty without such columns."""
    chosen = [c for c in columns if c.kind in {LIST, TRUTH, TEXT} and c.name != AVAILABLE]
    by_column = [(column.name, column_values(column)) for column in chosen]
    kept = [(name, each) for name, each in by_column if 2 <= len({v for own in each for v in own}) <= MOST_VALUES]
    return [[f"{name}={v}" for name, own in row for v in own] for row in _by_item(kept)]


def _by_item(by_column: list[tuple[str, list[tuple[str, ...]]]]) -> list[list[tuple[str, tuple[str, ...]]]]:
    names = [name for name, _ in by_column]
    return [list(zip(names, row, strict=True)) for row in zip(*(each for _, each in by_column), strict=True)]
