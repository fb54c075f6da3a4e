"""Whom to recommend to: users of the data set, or histories, in a frame, a mapping or a list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.badrows import BadRows, Malformed, Policy
from delrec_lite.data.checked import check_rows
from delrec_lite.data.frames import FrameKind, is_frame, kind_of, names_of, table_of
from delrec_lite.data.packages import arrow
from delrec_lite.data.tables import Table
from delrec_lite.data.times import times_of
from delrec_lite.data.values import as_ids
from delrec_lite.errors import DataError, UsageError
from delrec_lite.frames.columns import HISTORY, log_columns
from delrec_lite.runtime.arguments import title_of, values_in
from delrec_lite.scoring.scorer import USER

USERS = "users"
# Gives the histories of known users, by their ids as text.
Known = Callable[[list[str]], list[list[str]]]
# Gives the item id that a title or an id names; the text itself where the catalogue lacks it.
Named = Callable[[str | int], str]


@dataclass(frozen=True)
class Asked:
    """Users and their histories.

    Attributes:
        table: Of Arrow, with the columns ``user_id``, of any type, and ``history``: ids of items, oldest first.
        kind: Of the frame that came in; None: it was none.
        dropped: Malformed rows that were left out.
    """

    table: Any
    kind: FrameKind | None = None
    dropped: Sequence[Malformed] = ()


def read_request(users: Any, names: Mapping[str, str], known: Known, named: Named, policy: Policy = "refuse") -> Asked:
    """Read what ``recommend`` is given.

    Args:
        users: A frame with a history a row, an interaction a row, or a user a row; a mapping of users to histories, or
            a Series of histories whose index has the users; a list of users, or of histories.
        names: Of the columns of frames, see ``columns.parse_names``.
        known: See ``Known``.
        named: See ``Named``.
        policy: For rows of interactions that are malformed.

    Raises:
        DataError: A frame lacks a column, or has bad rows.
        UsageError: None of these, or a user without a history.
    """
    if is_frame(users):
        bad = BadRows(policy)
        return Asked(_of_frame(users, names, known, bad), kind_of(users), bad.files)
    if isinstance(users, Mapping) or _has_histories(users):
        pairs = list(users.items())
        if not pairs:
            raise UsageError(f"{USERS} is empty", "give users, or histories")
        lists = [item_ids(values, f"{USERS}[{user!r}]", named) for user, values in pairs]
        return Asked(_table(_ids([user for user, _ in pairs]), lists))
    given = values_in(users, USERS, ordered=True)
    if not given:
        raise UsageError(f"{USERS} is empty", "give users, or histories")
    nested = [not isinstance(value, str | bytes) and hasattr(value, "__iter__") for value in given]
    if all(nested):
        lists = [item_ids(values, f"{USERS}[{n}]", named) for n, values in enumerate(given)]
        return Asked(_table(arrow().array(range(len(lists))), lists))
    if any(nested):
        raise UsageError(f"{USERS} holds ids and lists", "give ids of users, or a list of items for each user")
    ids = _ids(given)
    return Asked(_table(ids, known(_texts(ids))))


def _has_histories(users: Any) -> bool:
    """Whether it is a Series of histories by user, as ``groupby("user_id")["item_id"].apply(list)`` of pandas is."""
    if kind_of(users) != "pandas" or not hasattr(users, "iloc"):
        return False
    return bool(len(users)) and not isinstance(users.iloc[0], str | bytes) and hasattr(users.iloc[0], "__iter__")


def _of_frame(frame: Any, names: Mapping[str, str], known: Known, bad: BadRows) -> Any:
    present = names_of(frame, USERS)
    columns = log_columns(names, present)
    history = names.get("history", HISTORY)
    if history in present:
        table = table_of(frame, (columns.user, history), USERS)
        return arrow().table({USER: table.columns[columns.user], HISTORY: table.columns[history]})
    if columns.item not in present:
        if present != [columns.user]:
            wanted = ", ".join(map(repr, (columns.user, columns.item, columns.time)))
            raise DataError(
                f"{USERS} has neither a column {columns.item!r} nor {history!r}",
                f"a row is an interaction ({wanted}), a user with a history ({columns.user!r}, {history!r}), or a user "
                f"({columns.user!r} alone); it has: {', '.join(present)}",
            )
        ids = table_of(frame, (columns.user,), USERS).columns[columns.user]
        return _table(ids, known(_texts(ids)))
    return _grouped(frame, columns, present, bad)


def _grouped(frame: Any, columns: Any, present: Sequence[str], bad: BadRows) -> Any:
    """Interactions as a history for each user, in the order of first rows; without times a user's rows are in order."""
    pa, timed = arrow(), columns.time in present
    table = table_of(frame, (columns.user, columns.item, *((columns.time,) if timed else ())), USERS)
    count = len(table.columns[columns.user])
    if not timed:
        rows = pa.chunked_array([pa.array(np.arange(count))])
        table = Table(table.path, {**table.columns, columns.time: rows}, 0)
    checked = check_rows(table, columns, False)
    bad.add(table.path, checked.malformed, checked.examples)
    times = times_of(checked.times, table.where(columns.time)).values
    usable = np.flatnonzero(checked.usable)
    users, first = np.unique(checked.users[usable], return_index=True)
    place = np.empty(len(checked.user_ids), np.int64)
    place[users[np.argsort(first)]] = np.arange(len(users))
    of_user = place[checked.users[usable]]
    order = np.lexsort((usable, times[usable], of_user))
    ends = np.append(0, np.cumsum(np.bincount(of_user, minlength=len(users))))
    items = checked.item_ids.take(pa.array(checked.items[usable][order]))
    histories = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items)
    originals = table.columns[columns.user].take(pa.array(usable[np.sort(first)]))
    return pa.table({USER: originals, HISTORY: histories})


def _table(users: Any, histories: Sequence[Sequence[str]]) -> Any:
    pa = arrow()
    return pa.table({USER: users, HISTORY: pa.array(histories, pa.list_(pa.string()))})


def item_ids(values: Any, where: str, named: Named) -> list[str]:
    """The ids of items that are given by id or title.

    Args:
        values: A list, or another series in order.
        where: Its name in errors.
        named: See ``Named``.

    Raises:
        UsageError: It is none, or a value is neither a title nor an id.
    """
    given = values_in(values, where, ordered=True)
    return [named(title_of(value, f"{where}[{n}]")) for n, value in enumerate(given)]


def _ids(values: Sequence[Any]) -> Any:
    """Ids of users as an Arrow array.

    Raises:
        UsageError: They have no common type.
    """
    pa = arrow()
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    try:
        array = pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{USERS} holds ids of several types", "give all of them as text or numbers") from error
    if array.null_count or not len(array):
        raise UsageError(f"{USERS} holds a missing id", "give an id for each user")
    return array


def _texts(ids: Any) -> list[str]:
    pa = arrow()
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids])
    texts: list[str] = as_ids(column, USERS).to_pylist()
    return texts
