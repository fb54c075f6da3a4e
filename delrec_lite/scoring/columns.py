"""Which columns of an input hold users and histories: a list a user, or an interaction a row."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from delrec_lite.data.cells import is_list
from delrec_lite.data.readers import named_once
from delrec_lite.errors import DataError, UsageError


@dataclass(frozen=True)
class Names:
    """Names of the columns of an input; empty: the usual one, where there is one.

    Attributes:
        user: User id; usually ``user_id``.
        history: A user's item ids, oldest first; usually ``history``.
        item: Item id of an interaction; usually ``item_id``.
        time: Of an interaction; usually ``timestamp``.
    """

    user: str = ""
    history: str = ""
    item: str = ""
    time: str = ""


USUAL = Names("user_id", "history", "item_id", "timestamp")


@dataclass(frozen=True)
class Shape:
    """The columns that are read.

    Attributes:
        user: With the user's id.
        values: With the history, or the item of an interaction.
        time: By which a user's interactions are ordered; empty: they are in order.
        listed: Whether each row is a user with a history.
    """

    user: str
    values: str
    time: str
    listed: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its columns."""
        return (self.user, self.values, *((self.time,) if self.time else ()))


def parse_names(text: str) -> Names:
    """Read ``user=uid,history=items`` or ``user=uid,item=sku,time=ts``.

    Raises:
        UsageError: Another key, no ``=``, or both a history and an item.
    """
    allowed = [field.name for field in fields(Names)]
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for key, equals, value in pairs:
        if key.strip() not in allowed or not equals or not value.strip():
            hint = "write user=uid,history=items, or user=uid,item=sku,time=ts"
            raise UsageError(f"--columns: {key!r} does not name a column", hint)
    texts = [(key.strip(), value.strip()) for key, _, value in pairs]
    names = Names(**named_once(texts, apart=("user", "history", "item", "time")))
    if names.history and (names.item or names.time):
        raise UsageError(
            "--columns names a history and interactions", "a row is a user with a history, or one interaction"
        )
    return names


def shape_of(path: Path, kinds: Mapping[str, Any], names: Names) -> Shape:
    """What a file's columns mean.

    Args:
        path: For errors.
        kinds: Arrow type of each column of the file.
        names: As the user gave them.

    Raises:
        DataError: A column is missing.
    """
    user = names.user or USUAL.user
    _need(path, kinds, user)
    if names.history or (not names.item and USUAL.history in kinds):
        history = names.history or USUAL.history
        _need(path, kinds, history)
        return Shape(user, history, "", True)
    item = names.item or USUAL.item
    if not names.item and item not in kinds:
        raise _missing(path, kinds, f"neither a column {USUAL.history!r} nor {item!r}")
    _need(path, kinds, item)
    if names.time:
        _need(path, kinds, names.time)
    if is_list(kinds[item]):
        return Shape(user, item, "", True)
    time = names.time or (USUAL.time if USUAL.time in kinds else "")
    return Shape(user, item, time, False)


def _need(path: Path, kinds: Mapping[str, Any], name: str) -> None:
    if name not in kinds:
        raise _missing(path, kinds, f"no column {name!r}")


def _missing(path: Path, kinds: Mapping[str, Any], what: str) -> DataError:
    has = textwrap.shorten(", ".join(kinds), 300, placeholder=" ...")
    return DataError(f"{path} has {what}", f"it has: {has}; name them: --columns user=uid,history=items")
