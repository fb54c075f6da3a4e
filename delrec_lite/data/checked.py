"""Checks of the rows of a log: which have a user, an item and a time, and what is wrong with the others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.badrows import SHOWN
from delrec_lite.data.tables import Table
from delrec_lite.data.times import PartOfTimes, part_of_times, why_invalid
from delrec_lite.data.types import Bools, Ints
from delrec_lite.data.values import as_text, distinct, missing, why_missing
from delrec_lite.errors import UsageError


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a file.

    Attributes:
        user: User id.
        item: Item id, in the log and in the item list.
        time: Orders a user's interactions: a Unix time, a counter, or a date and time in ISO 8601.
        title: Item title, in the item list.

    In files without a header they are numbers from 1: by default user, item and time are the first three columns of
    the log, and item and title the first two of the item list.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    title: str = "title"


@dataclass(frozen=True)
class CheckedRows:
    """Rows of a log, as they are in the file, and what is wrong with them.

    Attributes:
        users: Index into ``user_ids`` of each row, int64 ``[rows]``.
        items: Index into ``item_ids`` of each row, int64 ``[rows]``.
        user_ids: Distinct ids, an Arrow array of text.
        item_ids: Distinct ids, an Arrow array of text.
        times: Of the rows.
        usable: Whether a row has user, item and time, bool ``[rows]``.
        malformed: How many rows are malformed, those that are no record of the table among them.
        blank: How many rows are empty in all three columns.
        examples: Row number and reason of at least the first few malformed rows.
        words: Whether some are malformed for a word that means a missing value, such as NULL.
    """

    users: Ints
    items: Ints
    user_ids: Any
    item_ids: Any
    times: PartOfTimes
    usable: Bools
    malformed: int
    blank: int
    examples: list[tuple[int, str]]
    words: bool


def check_rows(table: Table, columns: Columns, keep_na: bool) -> CheckedRows:
    """Check the rows of a table.

    Args:
        table: Of a log, or of some rows of it.
        columns: The names that its columns have.
        keep_na: See ``Layout``.

    Raises:
        DataError: A column has a type that has no text or no date.
        UsageError: Two of the columns are one.
    """
    named = [columns.user, columns.item, columns.time]
    if twice := next((name for name in named if named.count(name) > 1), ""):
        raise UsageError(
            f"{table.path}: {table.label(twice)!r} is named for two of user, item and time",
            "name a column for each of them: user=uid,item=sku,time=ts",
        )
    users, user_ids = distinct(table.columns[columns.user], table.where(columns.user))
    items, item_ids = distinct(table.columns[columns.item], table.where(columns.item))
    times = part_of_times(table.columns[columns.time], table.where(columns.time))
    no_user, no_item = missing(user_ids, keep_na)[users], missing(item_ids, keep_na)[items]
    unusable = no_user | no_item | ~times.valid
    malformed = unusable.copy()
    examples = list(table.malformed)
    # Spreadsheets write blank rows; a row with these three columns empty is skipped and counted, not malformed.
    empty_user, empty_item = missing(user_ids, True)[users], missing(item_ids, True)[items]
    for record in np.flatnonzero(empty_user & empty_item & ~times.valid):
        malformed[record] = bool(_text_at(table, columns.time, int(record)))
    for record in np.flatnonzero(malformed)[:SHOWN]:
        reason = why_invalid(table.label(columns.time), _text_at(table, columns.time, int(record)))
        for name, ids, rows, is_wrong in (
            (columns.item, item_ids, items, no_item),
            (columns.user, user_ids, users, no_user),
        ):
            if is_wrong[record]:
                reason = f"{table.label(name)} {why_missing(ids[int(rows[record])].as_py())}"
        examples.append((table.row(int(record)), reason))
    return CheckedRows(
        users,
        items,
        user_ids,
        item_ids,
        times,
        ~unusable,
        len(table.malformed) + int(malformed.sum()),
        int((unusable & ~malformed).sum()),
        examples,
        bool((no_user & ~empty_user | no_item & ~empty_item).any()),
    )


def _text_at(table: Table, name: str, record: int) -> str:
    text: str = as_text(table.columns[name].slice(record, 1))[0].as_py()
    return text
