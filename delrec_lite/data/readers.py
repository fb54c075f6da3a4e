"""Interaction logs and item lists from delimited text: CSV, TSV, RecBole atomic files, MovieLens-100K."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from delrec_lite.errors import DataError, UsageError


@dataclass(frozen=True)
class Columns:
    """Which column of a file means what.

    Attributes:
        user: User id.
        item: Item id, in the log and in the item list.
        time: Number that orders a user's interactions: a Unix time, or a counter.
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
        users: User ids.
        items: Item ids.
        times: What orders them, float64 of shape ``[rows]``.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    times: npt.NDArray[np.float64]


def parse_columns(text: str) -> Columns:
    """Read ``user=uid,item=sku``; what is not named keeps its default.

    Raises:
        UsageError: A meaning other than user, item, time and title, or no ``=``.
    """
    meanings = [field.name for field in fields(Columns)]
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [key for key, equals, value in pairs if key.strip() not in meanings or not equals or not value.strip()]
    if wrong:
        raise UsageError(
            f"--columns: {wrong[0]!r} does not name a column", "write user=uid,item=sku,time=ts,title=name"
        )
    return Columns(**{key.strip(): value.strip() for key, _, value in pairs})


def read_interactions(path: Path, columns: Columns = Columns(), names: Sequence[str] = ()) -> Interactions:
    """Read a log.

    Args:
        path: Comma separated if it ends in ``.csv``, else by tabs.
        columns: Which column is which.
        names: Column names, for a file without a header.

    Raises:
        DataError: No such file or column, an empty id, a time that is no number; names file, row and column.
    """
    users, items, times = [], [], []
    for row, (user, item, time) in read_rows(path, (columns.user, columns.item, columns.time), names):
        try:
            moment = float(time)
        except ValueError:
            moment = float("nan")
        if not np.isfinite(moment):
            raise DataError(
                f"{path}, row {row}: {columns.time} is {time!r}, not a number", "use Unix time, or a counter"
            )
        if not user or not item:
            raise DataError(
                f"{path}, row {row}: {columns.item if user else columns.user} is empty", "mend or remove it"
            )
        users.append(user)
        items.append(item)
        times.append(moment)
    if not users:
        raise DataError(f"{path} holds no interactions", "check that it is the right file")
    return Interactions(tuple(users), tuple(items), np.array(times))


def read_titles(path: Path, columns: Columns = Columns()) -> dict[str, str]:
    """Title of each item id, from an item list with a header; the layout is that of ``read_interactions``.

    Raises:
        DataError: No such file or column, an empty title, an id listed twice with different titles.
    """
    titles: dict[str, str] = {}
    for row, (item, title) in read_rows(path, (columns.item, columns.title)):
        add_title(titles, item, " ".join(title.split()), path, row)
    return titles


def add_title(titles: dict[str, str], item: str, title: str, path: Path, row: int) -> None:
    """Put one row of an item list into ``titles``, or say what is wrong with it."""
    if not title:
        raise DataError(f"{path}, row {row}: item {item!r} has an empty title", "give it one; the LLM reads titles")
    if titles.setdefault(item, title) != title:
        raise DataError(f"{path}, row {row}: item {item!r} has a second title {title!r}", "keep one row per item")


def read_rows(
    path: Path,
    wanted: Sequence[str],
    names: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "utf-8-sig",
) -> Iterator[tuple[int, list[str]]]:
    """Yield row numbers (the first line of the file is 1) and the wanted columns of each row.

    A RecBole header (``user_id:token``) is read as the names before the colons. Only CSV knows quotes.
    """
    delimiter = delimiter or ("," if path.suffix == ".csv" else "\t")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        with path.open(encoding=encoding, newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, quoting=quoting)
            header = list(names) or [cell.split(":")[0].strip() for cell in next(rows, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}", f"it has: {', '.join(header)}")
            places = [header.index(name) for name in wanted]
            for cells in rows:
                if not cells:
                    continue
                if len(cells) <= max(places) or len(cells) != len(header):
                    found = f"{len(cells)} fields instead of {len(header)}"
                    raise DataError(f"{path}, row {rows.line_num}: {found}", "the row is cut or has a stray delimiter")
                yield rows.line_num, [cells[place].strip() for place in places]
    except FileNotFoundError as error:
        raise DataError(f"no file at {path}", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not {encoding.removesuffix('-sig')} text: {error}", "save it as UTF-8") from error
