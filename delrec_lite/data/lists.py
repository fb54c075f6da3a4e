"""Ranked lists of a recommender that runs elsewhere: user_id, rank, item_id and perhaps score, one row an item."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.tables import header_of, read_table
from delrec_lite.data.types import Dataset, Floats, Ints
from delrec_lite.errors import DataError

USER, RANK, ITEM, SCORE = "user_id", "rank", "item_id", "score"


@dataclass(frozen=True)
class RankedLists:
    """What somebody's recommender gave to some users of a data set.

    Attributes:
        users: Index of each user, int64 ``[lists]``, ascending.
        items: Item indices, best first, one array a list.
        shares: How much of the recommender's trust each has, float32, summing to 1: the softmax of the scores where
            the file has some, else falling as 1 / rank.
        unknown: Rows with a user or an item that the data set does not have; they are left out.
    """

    users: Ints
    items: tuple[Ints, ...]
    shares: tuple[Floats, ...]
    unknown: int

    def __len__(self) -> int:
        return len(self.users)


def read_lists(path: Path, dataset: Dataset) -> RankedLists:
    """Read ranked lists: CSV, TSV, Parquet or a RecBole file with the columns user_id, rank, item_id[, score].

    Args:
        path: The file; ranks may begin at 0 or 1, rows may stand in any order.
        dataset: Whose users and items it speaks of, by their own ids.

    Raises:
        DataError: No such file or column, rows that do not read, an item twice in one list, or nobody of the data
            set in it.
    """
    scored = SCORE in header_of(path)
    table = read_table(path, (USER, RANK, ITEM, *((SCORE,) if scored else ())))
    users, items = table.texts(USER), table.texts(ITEM)
    numbers = {name: _numbers(table.texts(name)) for name in (RANK, *((SCORE,) if scored else ()))}
    wrong = ~np.all([np.isfinite(values) for values in numbers.values()], axis=0)
    found = list(table.found)
    for record in np.flatnonzero(wrong)[:SHOWN]:
        found.append((table.row(int(record)), f"{' or '.join(numbers)} is not a number"))
    BadRows().bring(path, len(table.found) + int(wrong.sum()), found)
    places = (
        {user: n for n, user in enumerate(dataset.user_ids)},
        {item: n for n, item in enumerate(dataset.catalog.ids)},
    )
    user_rows = np.array([places[0].get(user, -1) for user in users], dtype=np.int64)
    item_rows = np.array([places[1].get(item, -1) for item in items], dtype=np.int64)
    known = np.flatnonzero((user_rows >= 0) & (item_rows >= 0))
    if not len(known):
        raise DataError(f"{path} names no user and item of {dataset.name}", "are the ids those of your log?")
    order = known[np.lexsort((numbers[RANK][known], user_rows[known]))]
    owners, starts = np.unique(user_rows[order], return_index=True)
    listed = np.split(item_rows[order], starts[1:])
    for user, own in zip(owners, listed, strict=True):
        if len(np.unique(own)) < len(own):
            raise DataError(f"{path} lists an item twice for user {dataset.user_ids[user]!r}", "keep its best rank")
    if scored:
        shares = [_softmax(own) for own in np.split(numbers[SCORE][order], starts[1:])]
    else:
        shares = [_harmonic(len(own)) for own in listed]
    return RankedLists(owners, tuple(listed), tuple(shares), len(users) - len(known))


def _numbers(texts: list[str]) -> np.ndarray:
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
