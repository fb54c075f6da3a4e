"""Reads the user's own interaction logs and item lists, with configurable columns and checks of each row."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.tables import Table, arrow, as_text, read_table
from delrec_lite.data.types import Ints
from delrec_lite.errors import DataError, UsageError


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a file.

    Attributes:
        user: User id.
        item: Item id, in the log and in the item list.
        time: Orders a user's interactions: a Unix time, a counter, or a date and time in ISO 8601.
        title: Item title, in the item list.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    title: str = "title"


@dataclass(frozen=True)
class Interactions:
    """A log, one entry per row, in the order of the file.

    Attributes:
        user_ids: Distinct ids of users.
        item_ids: Distinct ids of items.
        users: Index into ``user_ids`` of each row, int64 ``[rows]``.
        items: Index into ``item_ids`` of each row, int64 ``[rows]``.
        times: Time of each row, float64 ``[rows]``; dates as seconds since 1970.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    users: Ints
    items: Ints
    times: npt.NDArray[np.float64]

    @classmethod
    def of(cls, users: Sequence[str], items: Sequence[str], times: Any) -> "Interactions":
        """From the user id, item id and time of each row."""
        user_ids, user_rows = np.unique(np.array(users, dtype=object), return_inverse=True)
        item_ids, item_rows = np.unique(np.array(items, dtype=object), return_inverse=True)
        return cls(tuple(user_ids), tuple(item_ids), user_rows, item_rows, np.asarray(times, dtype=np.float64))

    def take(self, rows: npt.NDArray[np.bool_]) -> "Interactions":
        """The rows where ``rows``, bool ``[rows]``, is true."""
        return Interactions(self.user_ids, self.item_ids, self.users[rows], self.items[rows], self.times[rows])


def parse_columns(text: str) -> Columns:
    """Read ``user=uid,item=sku``; columns that are not named keep their defaults.

    Raises:
        UsageError: A key other than user, item, time and title, or no ``=``.
    """
    allowed = [field.name for field in fields(Columns)]
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [key for key, equals, value in pairs if key.strip() not in allowed or not equals or not value.strip()]
    if wrong:
        raise UsageError(
            f"--columns: {wrong[0]!r} does not name a column", "write user=uid,item=sku,time=ts,title=name"
        )
    return Columns(**{key.strip(): value.strip() for key, _, value in pairs})


def read_interactions(
    path: Path, columns: Columns = Columns(), names: Sequence[str] = (), bad: BadRows | None = None
) -> Interactions:
    """Read a log.

    Args:
        path: CSV, TSV, a RecBole ``.inter`` file, or Parquet.
        columns: Names of the columns.
        names: Column names, for a file without a header.
        bad: Collects malformed rows: a wrong number of fields, an empty id, a time that is neither a number nor a
            date. Default: they are refused.

    Raises:
        DataError: No such file or column, no rows, or malformed ones that are refused; names file and rows.
    """
    bad = bad or BadRows()
    table = read_table(path, (columns.user, columns.item, columns.time), names)
    users, user_ids = _dictionary_encoded(table.columns[columns.user])
    items, item_ids = _dictionary_encoded(table.columns[columns.item])
    times = _times(table.columns[columns.time])
    no_user, no_item = _empty(user_ids)[users], _empty(item_ids)[items]
    unusable = no_user | no_item | ~np.isfinite(times)
    malformed = unusable.copy()
    examples = list(table.malformed)
    # Spreadsheets write blank rows; a row with these three columns empty is skipped, not malformed.
    for record in np.flatnonzero(no_user & no_item & np.isnan(times)):
        malformed[record] = bool(_text_at(table.columns[columns.time], int(record)))
    for record in np.flatnonzero(malformed)[:SHOWN]:
        value = _text_at(table.columns[columns.time], int(record))
        reason = f"{columns.time} is {value!r}, neither a number nor a date"
        if no_user[record] or no_item[record]:
            reason = f"{columns.user if no_user[record] else columns.item} is empty"
        examples.append((table.row(int(record)), reason))
    bad.add(path, len(table.malformed) + int(malformed.sum()), examples)
    if unusable.all():
        raise DataError(f"{path} holds no interactions", "check that it is the right file")
    return Interactions(user_ids, item_ids, users, items, times).take(~unusable)


def read_titles(path: Path, columns: Columns = Columns(), bad: BadRows | None = None) -> dict[str, str]:
    """Title of each item id, from an item list with a header; the layouts are those of ``read_interactions``.

    Args:
        path: The item list.
        columns: Names of the columns.
        bad: Collects malformed rows: a wrong number of fields, an empty id or title, an id with a second title.

    Raises:
        DataError: No such file or column, or malformed rows that are refused.
    """
    table = read_table(path, (columns.item, columns.title))
    titles = [" ".join(title.split()) for title in table.texts(columns.title)]
    return titles_of(table, table.texts(columns.item), titles, bad or BadRows())


def parse_text_columns(text: str) -> tuple[str, ...]:
    """Read ``category,brand``."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_texts(path: Path, text_columns: Sequence[str], columns: Columns = Columns()) -> dict[str, str]:
    """Side text of each item id: the values of some columns, joined; rows of lists are joined too.

    Args:
        path: The item list, as in ``read_titles``, which checks its rows.
        text_columns: Names of the columns, in the order in which the text has them.
        columns: Names of the other columns.

    Raises:
        DataError: No such file or column.
    """
    table = read_table(path, (columns.item, *text_columns))
    return texts_of(table.texts(columns.item), [_cells(table.columns[name]) for name in text_columns])


def texts_of(items: Sequence[str], columns: Sequence[Sequence[str]]) -> dict[str, str]:
    """Side text of each item id: the values that are not empty, joined; an id's first row counts."""
    text_of: dict[str, str] = {}
    for item, *values in zip(items, *columns, strict=True):
        text_of.setdefault(item, ", ".join(" ".join(value.split()) for value in values if value.strip()))
    return text_of


def _cells(column: Any) -> list[str]:
    """A column as text, the parts of a list joined."""
    pa = arrow()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [", ".join(str(part) for part in parts or () if part) for parts in column.to_pylist()]
    cells: list[str] = as_text(column).to_pylist()
    return cells


def titles_of(table: Table, items: Sequence[str], titles: Sequence[str], bad: BadRows) -> dict[str, str]:
    """Title of each item id; malformed rows go to ``bad``."""
    title_of: dict[str, str] = {}
    malformed = list(table.malformed)
    for record, (item, title) in enumerate(zip(items, titles, strict=True)):
        reason = ""
        if not item and title:
            reason = "the item id is empty"
        elif not item:
            continue  # a blank row
        elif not title:
            reason = f"item {item!r} has an empty title, and the LLM reads titles"
        elif title_of.setdefault(item, title) != title:
            reason = f"item {item!r} has a second title {title!r}"
        if reason:
            malformed.append((table.row(record), reason))
    bad.add(table.path, len(malformed), malformed)
    return title_of


def _dictionary_encoded(column: Any) -> tuple[Ints, tuple[str, ...]]:
    """A column of ids as indices into its distinct values."""
    coded = as_text(column).dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(coded, arrow().ChunkedArray):  # there are no chunks
        return np.empty(0, np.int64), ()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), tuple(coded.dictionary.to_pylist())


def _text_at(column: Any, record: int) -> str:
    text: str = as_text(column.slice(record, 1))[0].as_py()
    return text


def _empty(ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.array([not i for i in ids], dtype=bool)


def _times(column: Any) -> npt.NDArray[np.float64]:
    """A column of times as numbers; nan where it holds neither a number nor a date."""
    pa = arrow()
    if pa.types.is_temporal(column.type):
        column = pa.compute.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
    try:
        moments = column.cast(pa.float64())
    except pa.ArrowInvalid:
        coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        distinct = np.array([_time_value(text) for text in coded.dictionary.to_pylist()] or [np.nan])
        positions = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(positions < 0, np.nan, distinct[positions])
    filled: npt.NDArray[np.float64] = moments.fill_null(float("nan")).to_numpy()
    return filled


def _time_value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
