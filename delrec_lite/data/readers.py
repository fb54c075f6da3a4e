"""Reads the user's own interaction logs and item lists, with configurable columns and checks of each row."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.cells import cells_of, joined_parts
from delrec_lite.data.checked import Columns as Columns
from delrec_lite.data.checked import check_rows
from delrec_lite.data.columns import ItemColumn, ItemRows
from delrec_lite.data.locations import Location
from delrec_lite.data.sources import NoRowsError
from delrec_lite.data.tables import DETECTED, Layout, OpenTable, Table, joined, open_table
from delrec_lite.data.times import times_of
from delrec_lite.data.typed_columns import ColumnSpec, typed_column
from delrec_lite.data.types import Ints
from delrec_lite.data.values import is_missing, why_missing
from delrec_lite.errors import DataError, UsageError

USUAL_COLUMNS = Columns()


@dataclass(frozen=True)
class Interactions:
    """A log, one entry per row, in the order of the file.

    Attributes:
        user_ids: Distinct ids of users.
        item_ids: Distinct ids of items.
        users: Index into ``user_ids`` of each row, int64 ``[rows]``.
        items: Index into ``item_ids`` of each row, int64 ``[rows]``.
        times: Time of each row, as ``times.Times.values``, ``[rows]``.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    users: Ints
    items: Ints
    times: npt.NDArray[Any]

    @classmethod
    def of(cls, users: Sequence[str], items: Sequence[str], times: Any) -> "Interactions":
        """From the user id, item id and time of each row."""
        user_ids, user_rows = np.unique(np.array(users, dtype=object), return_inverse=True)
        item_ids, item_rows = np.unique(np.array(items, dtype=object), return_inverse=True)
        return cls(tuple(user_ids), tuple(item_ids), user_rows, item_rows, np.asarray(times, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: npt.NDArray[np.bool_]) -> "Interactions":
        """The rows where ``rows``, bool ``[rows]``, is true."""
        return Interactions(self.user_ids, self.item_ids, self.users[rows], self.items[rows], self.times[rows])


def parse_columns(text: str) -> Columns:
    """Read ``user=uid,item=sku``; columns that are not named keep their defaults.

    Raises:
        UsageError: A key other than user, item, time and title, or no ``=``.
    """
    return Columns(**given_columns(text))


def given_columns(text: str) -> dict[str, str]:
    """The columns that a text names, by the attributes of ``Columns``; raises as ``parse_columns``."""
    allowed = [field.name for field in fields(Columns)]
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [key for key, equals, value in pairs if key.strip() not in allowed or not equals or not value.strip()]
    if wrong:
        raise UsageError(
            f"--columns: {wrong[0]!r} does not name a column", "write user=uid,item=sku,time=ts,title=name"
        )
    return named_once([(key.strip(), value.strip()) for key, _, value in pairs])


def named_once(pairs: Sequence[tuple[str, str]], apart: Collection[str] = ("user", "item", "time")) -> dict[str, str]:
    """The pairs of ``--columns`` as a mapping.

    Args:
        pairs: What a column is, and its name.
        apart: No two of these may be one column.

    Raises:
        UsageError: One is named twice, or two are one column.
    """
    named: dict[str, str] = {}
    for key, name in pairs:
        if key in named:
            raise UsageError(f"--columns names {key} twice", "name each once")
        if key in apart and (other := [k for k in named if k in apart and named[k] == name]):
            raise UsageError(f"--columns: {other[0]} and {key} are both {name!r}", "name a column for each")
        named[key] = name
    return named


def read_interactions(
    path: Path,
    columns: Columns = USUAL_COLUMNS,
    names: Sequence[str] = (),
    bad: BadRows | None = None,
    layout: Layout = DETECTED,
) -> Interactions:
    """Read a log.

    Args:
        path: CSV, TSV, a RecBole ``.inter`` file, JSON Lines or Parquet; ``-`` is standard input.
        columns: Names of the columns.
        names: Column names, for a file without a header.
        bad: Collects malformed rows: a wrong number of fields, an open quote, a missing id, a time that is neither a
            number nor a date. Default: they are refused. Its notes say what is odd about the times.
        layout: How the file is written.

    Raises:
        DataError: No such file or column, no rows, or malformed ones that are refused; names file and rows.
    """
    bad = bad or BadRows()
    opened = open_table(path, layout, names, (columns.user, columns.item, columns.time))
    columns = log_columns(columns, opened.numbered)
    return interactions_of(opened.read((columns.user, columns.item, columns.time)), columns, bad, layout.keep_na)


def interactions_of(table: Table, columns: Columns, bad: BadRows, keep_na: bool = False) -> Interactions:
    """The log in a table; arguments and errors as in ``read_interactions``."""
    rows = check_rows(table, columns, keep_na)
    times = times_of(rows.times, table.where(columns.time))
    bad.add(table.path, rows.malformed, rows.examples, rows.words)
    bad.notes += times.notes
    bad.skip(table.path, rows.blank)
    if not rows.usable.any():
        raise no_interactions(table.path)
    ids = (tuple(rows.user_ids.to_pylist()), tuple(rows.item_ids.to_pylist()))
    return Interactions(*ids, rows.users, rows.items, times.values).take(rows.usable)


def no_interactions(path: Path) -> DataError:
    """The error for a log without a row that can be used."""
    return DataError(f"{path} holds no interactions", "check that it is the right file")


def log_columns(columns: Columns, numbered: bool) -> Columns:
    """The columns of a log, which have numbers if it has no header."""
    return _numbered(columns, user="1", item="2", time="3") if numbered else columns


def read_titles(
    path: Path, columns: Columns = USUAL_COLUMNS, bad: BadRows | None = None, layout: Layout = DETECTED
) -> dict[str, str]:
    """Title of each item id: the first part of ``read_items``."""
    return read_items(path, (), columns, bad, layout)[0]


def read_texts(
    path: Path, text_columns: Sequence[str], columns: Columns = USUAL_COLUMNS, layout: Layout = DETECTED
) -> dict[str, str]:
    """Side text of each item id: the second part of ``read_items``, of a list that may have no titles."""
    opened = open_table(path, layout, expected=(columns.item,))
    columns = _item_columns(columns, opened, layout)
    table = opened.read((columns.item, *text_columns), lists=text_columns)
    return texts_of(
        table.ids(columns.item), [_cells(table, name, layout.keep_na) for name in text_columns], layout.keep_na
    )


def read_items(
    path: Path,
    text_columns: Sequence[str] = (),
    columns: Columns = USUAL_COLUMNS,
    bad: BadRows | None = None,
    layout: Layout = DETECTED,
) -> tuple[dict[str, str], dict[str, str]]:
    """Title and side text of each item id: the first parts of ``read_item_list``."""
    listed = read_item_list(path, text_columns, (), columns, bad, layout)
    return listed.titles, listed.texts


@dataclass(frozen=True)
class ItemList:
    """What an item list says.

    Attributes:
        titles: Title of each item id.
        texts: Side text of each item id; empty without columns of it.
        rows: The item columns to keep.
        text_columns: The columns of the side text.
    """

    titles: dict[str, str]
    texts: dict[str, str]
    rows: ItemRows
    text_columns: tuple[str, ...] = ()


def read_item_list(
    path: Path,
    text_columns: Sequence[str] = (),
    item_columns: Sequence[ColumnSpec] = (),
    columns: Columns = USUAL_COLUMNS,
    bad: BadRows | None = None,
    layout: Layout = DETECTED,
    found: bool = False,
    texts_found: bool = False,
) -> ItemList:
    """Title, side text and columns of each item id, from an item list in a format of ``read_interactions``.

    Args:
        path: The item list.
        text_columns: Columns of the side text, in the order in which the text has them; cells may be lists of words.
        item_columns: Columns to keep beside it; cells may be lists of words.
        columns: Names of the other columns.
        bad: Collects malformed rows: a wrong number of fields, an open quote, a missing id or title, an id with a
            second title. Default: they are refused.
        layout: How the file is written.
        found: Keep those of ``item_columns`` that the list has; otherwise it must have all.
        texts_found: The same of ``text_columns``.

    Raises:
        DataError: No such file or column, malformed rows that are refused, or a value that is not of its column's type.
    """
    opened = open_table(path, layout, expected=(columns.title,))
    columns = _item_columns(columns, opened, layout)
    specs = [spec for spec in item_columns if spec.name in opened.names or not found]
    texts = [name for name in text_columns if name in opened.names or not texts_found]
    return item_list_of(opened.read, columns, texts, specs, bad or BadRows(), layout)


def read_items_from(
    location: Location,
    text_columns: Sequence[str],
    item_columns: Sequence[ColumnSpec],
    columns: Columns,
    bad: BadRows,
    layout: Layout,
    memory: int,
) -> ItemList:
    """``read_item_list`` of all tables of a location, one after another.

    Args:
        location: Where they are.
        text_columns: See ``read_item_list``.
        item_columns: See ``read_item_list``.
        columns: See ``read_item_list``.
        bad: See ``read_item_list``.
        layout: See ``read_item_list``.
        memory: Bytes that a database may use.
    """
    if location.is_single:
        return read_item_list(location.files[0], text_columns, item_columns, columns, bad, layout)
    opened = list(location.opened(layout, (columns.title,), memory=memory // 8))
    if opened[0].numbered:
        columns = replace(_numbered(columns, title="2"), item="1")

    def read(names: Sequence[str], lists: Sequence[str]) -> Table:
        tables = [table for part in opened for table in part.read(names, lists)]
        if not tables:
            raise NoRowsError(location.path)
        return joined(tables, location.path)

    return item_list_of(read, columns, text_columns, item_columns, bad, layout)


def item_list_of(
    read: Callable[[Sequence[str], Sequence[str]], Table],
    columns: Columns,
    text_columns: Sequence[str],
    specs: Sequence[ColumnSpec],
    bad: BadRows,
    layout: Layout,
) -> ItemList:
    """``read_item_list`` of a table that ``read`` gives: names of columns, and of those that may hold lists, to it."""
    kept = [spec.name for spec in specs]
    table = read((columns.item, columns.title, *text_columns, *kept), (*text_columns, *kept))
    items = table.ids(columns.item)
    titles = [" ".join(title.replace("\0", " ").split()) for title in table.texts(columns.title)]
    title_of = titles_of(table, items, titles, bad, layout.keep_na)
    texts = (
        texts_of(items, [_cells(table, name, layout.keep_na) for name in text_columns], layout.keep_na)
        if text_columns
        else {}
    )
    return ItemList(title_of, texts, ItemRows(items, _typed(table, specs, layout)), tuple(text_columns))


def read_item_rows(
    path: Path,
    item_columns: Sequence[ColumnSpec],
    columns: Columns = USUAL_COLUMNS,
    bad: BadRows | None = None,
    layout: Layout = DETECTED,
) -> ItemRows:
    """The columns of ``read_item_list``, of a list that may have no titles; raises the same."""
    opened = open_table(path, layout, expected=(columns.item,))
    columns = _item_columns(columns, opened, layout)
    names = [spec.name for spec in item_columns]
    table = opened.read((columns.item, *names), lists=names)
    (bad or BadRows()).add(path, len(table.malformed), table.malformed)
    return ItemRows(table.ids(columns.item), _typed(table, item_columns, layout))


def _typed(table: Table, specs: Sequence[ColumnSpec], layout: Layout) -> tuple[ItemColumn, ...]:
    """A table's columns to keep, with their types."""
    return tuple(
        typed_column(spec, _parts(table, spec.name, layout.keep_na), table.where(spec.name), table.row, layout.keep_na)
        for spec in specs
    )


def _numbered(columns: Columns, **defaults: str) -> Columns:
    """Numbers of the columns of a file without a header: the user's, or their usual places.

    Raises:
        UsageError: The user names a column of a file without names.
    """
    named = {name: getattr(columns, name) for name in defaults}
    usual = USUAL_COLUMNS
    if wrong := [f"{k}={v}" for k, v in named.items() if not v.isdecimal() and v != getattr(usual, k)]:
        raise UsageError(
            f"--columns {wrong[0]}: without a header, columns have numbers", "write user=1,item=2,time=3,title=2"
        )
    return replace(columns, **{k: v if v.isdecimal() else defaults[k] for k, v in named.items()})


def _item_columns(columns: Columns, opened: OpenTable, layout: Layout) -> Columns:
    """The columns of an item list; where the log has no header, ``item`` may be a number that means the log alone."""
    if opened.numbered:
        return replace(_numbered(columns, title="2"), item="1")
    if not layout.header and columns.item not in opened.names:
        usual = USUAL_COLUMNS.item
        return replace(columns, item=usual if usual in opened.names else opened.names[0])
    return columns


def parse_text_columns(text: str) -> tuple[str, ...]:
    """Read ``category,brand``."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def texts_of(items: Sequence[str], columns: Sequence[Sequence[str]], keep_na: bool = False) -> dict[str, str]:
    """Side text of each item id: the values that are not missing, joined; an id's first row counts."""
    text_of: dict[str, str] = {}
    for item, *values in zip(items, *columns, strict=True):
        words = (" ".join(value.replace("\0", " ").split()) for value in values)
        text_of.setdefault(item, ", ".join(text for text in words if not is_missing(text, keep_na)))
    return text_of


def _cells(table: Table, name: str, keep_na: bool) -> list[str]:
    """A column as text, the parts of a list joined."""
    return [joined_parts(cell) for cell in _parts(table, name, keep_na)]


def _parts(table: Table, name: str, keep_na: bool) -> list[Any]:
    """A column's cells: texts, or lists of texts."""
    return cells_of(table.columns[name], table.where(name), keep_na)


def titles_of(
    table: Table, items: Sequence[str], titles: Sequence[str], bad: BadRows, keep_na: bool = False
) -> dict[str, str]:
    """Title of each item id; malformed rows go to ``bad``."""
    title_of: dict[str, str] = {}
    malformed = list(table.malformed)
    words, blank = False, 0
    for record, (item, title) in enumerate(zip(items, titles, strict=True)):
        reason = ""
        if not item and not title:
            blank += 1
            continue
        if is_missing(item, keep_na):
            reason, words = f"the item id {why_missing(item)}", words or bool(item)
        elif not title:
            reason = f"item {item!r} has an empty title, and the LLM reads titles"
        elif is_missing(title, keep_na):
            reason, words = f"item {item!r} has the title {title!r}, a missing value", True
        elif title_of.setdefault(item, title) != title:
            reason = f"item {item!r} has a second title {title!r}"
        if reason:
            malformed.append((table.row(record), reason))
    bad.add(table.path, len(malformed), malformed, words)
    bad.skip(table.path, blank)
    return title_of
