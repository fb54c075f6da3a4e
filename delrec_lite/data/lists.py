"""Ranked lists of an external recommender: one row per item with user_id, rank, item_id and, optionally, score."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.tables import open_table
from delrec_lite.data.types import Dataset, Floats, Ints
from delrec_lite.errors import DataError

USER, RANK, ITEM, SCORE = "user_id", "rank", "item_id", "score"


@dataclass(frozen=True)
class RankedLists:
    """What an external recommender returned for some users of a data set.

    Attributes:
        users: Index of each user, int64 ``[lists]``, ascending.
        items: Item indices, best first, one array per list.
        shares: Target probability of each item, float32, summing to 1 in a list: the softmax of the scores if the
            file has scores, else proportional to 1 / rank.
        unknown: How many rows were left out because the data set does not have their user or item.
    """

    users: Ints
    items: tuple[Ints, ...]
    shares: tuple[Floats, ...]
    unknown: int

    def __len__(self) -> int:
        return len(self.users)


def read_lists(path: Path, dataset: Dataset) -> RankedLists:
    """Read ranked lists: CSV, TSV, JSON Lines, Parquet or RecBole, with the columns user_id, rank, item_id[, score].

    Args:
        path: The file; ranks may begin at 0 or 1, rows may be in any order.
        dataset: The data set whose user and item ids the file uses.

    Raises:
        DataError: No such file or column, malformed rows, an item twice in one list, or no row with a user and an
            item of the data set.
    """
    opened = open_table(path)
    scored = SCORE in opened.names
    table = opened.read((USER, RANK, ITEM, *((SCORE,) if scored else ())))
    users, items = table.ids(USER), table.ids(ITEM)
    numbers = {name: numbers_in(table.texts(name)) for name in (RANK, *((SCORE,) if scored else ()))}
    malformed = ~np.all([np.isfinite(values) for values in numbers.values()], axis=0)
    examples = list(table.malformed)
    for record in np.flatnonzero(malformed)[:SHOWN]:
        examples.append((table.row(int(record)), f"{' or '.join(numbers)} is not a number"))
    BadRows().add(path, len(table.malformed) + int(malformed.sum()), examples)
    user_index = {user: n for n, user in enumerate(dataset.user_ids)}
    item_index = {item: n for n, item in enumerate(dataset.catalog.ids)}
    user_rows = np.array([user_index.get(user, -1) for user in users], dtype=np.int64)
    item_rows = np.array([item_index.get(item, -1) for item in items], dtype=np.int64)
    matched = np.flatnonzero((user_rows >= 0) & (item_rows >= 0))
    if not len(matched):
        raise DataError(
            f"{path} names no user and item of {dataset.name}", "check that the file uses the ids of your log"
        )
    order = matched[np.lexsort((numbers[RANK][matched], user_rows[matched]))]
    list_users, starts = np.unique(user_rows[order], return_index=True)
    lists = np.split(item_rows[order], starts[1:])
    for user, ranked in zip(list_users, lists, strict=True):
        if len(np.unique(ranked)) < len(ranked):
            raise DataError(f"{path} lists an item twice for user {dataset.user_ids[user]!r}", "keep its best rank")
    if scored:
        shares = [_softmax(scores) for scores in np.split(numbers[SCORE][order], starts[1:])]
    else:
        shares = [_harmonic(len(ranked)) for ranked in lists]
    return RankedLists(list_users, tuple(lists), tuple(shares), len(users) - len(matched))


def numbers_in(texts: list[str]) -> Floats:
    """The numbers of a column, float64; NaN for a text that is none."""
    out = np.full(len(texts), np.nan)
    for n, text in enumerate(texts):
        try:
            out[n] = float(text)
        except ValueError:
            continue
    return out


def _softmax(scores: np.ndarray) -> Floats:
    powers = np.exp(scores - scores.max())
    shares: Floats = (powers / powers.sum()).astype(np.float32)
    return shares


def _harmonic(count: int) -> Floats:
    parts = 1 / np.arange(1, count + 1)
    shares: Floats = (parts / parts.sum()).astype(np.float32)
    return shares
