"""Tells a log whose ids or times are written otherwise than those of a data set that it should extend."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.readers import Interactions
from delrec_lite.data.times import NANOSECONDS, unit_of
from delrec_lite.data.types import Dataset
from delrec_lite.data.waiting import Waiting
from delrec_lite.errors import DataError


def refuse_other_ids(dataset: Dataset, waiting: Waiting, log: Interactions, where: str) -> None:
    """Refuse a log of which no user and no item is known, or whose ids differ from known ones in writing alone.

    Args:
        dataset: With the known ids.
        waiting: With more of them.
        log: The new log.
        where: Names it in errors.

    Raises:
        DataError: With an example.
    """
    known = ({*dataset.user_ids, *waiting.users}, {*dataset.catalog.ids, *waiting.items})
    # Those that rows have; the ids of dropped rows are among a log's, too.
    used = [[ids[n] for n in np.unique(rows)] for ids, rows in ((log.user_ids, log.users), (log.item_ids, log.items))]
    for what, ids, own in zip(("user", "item"), used, known, strict=True):
        if pair := _written_otherwise(ids, own):
            raise DataError(
                f"{where}: {what} id {pair[0]!r} is not known, {pair[1]!r} is, and most other ids are alike",
                "write ids as in the first log",
            )
    if not any(own.intersection(ids) for ids, own in zip(used, known, strict=True)):
        raise DataError(
            f"{where}: none of its users and none of its items is known, so it is not a later part of the same log",
            f"ids of the data set look like {dataset.user_ids[0]!r} (user) and {dataset.catalog.ids[0]!r} (item)",
        )


def _written_otherwise(ids: Sequence[str], known: Collection[str]) -> tuple[str, str] | None:
    """An unknown and a known id that are alike, if at least half of the ids have such a one."""
    plain = {_plain(text): text for text in known}
    alike = [(text, plain[_plain(text)]) for text in ids if text not in known and _plain(text) in plain]
    return alike[0] if alike and 2 * len(alike) >= len(ids) else None


def _plain(text: str) -> str:
    """An id without what programs add or leave out: quotes, braces, dashes, a decimal zero, leading zeros, case."""
    plain = text.strip().strip("\"'{}").replace("-", "").casefold()
    whole, point, decimals = plain.partition(".")
    plain = whole if point and not decimals.strip("0") else plain
    return plain.lstrip("0") or plain


def same_unit(known: npt.NDArray[Any], times: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """New times in the unit and type of known ones.

    Args:
        known: Of the data set.
        times: Of the new log.
        where: Names it in errors.

    Raises:
        DataError: They are in another unit.
    """
    units = unit_of(known), unit_of(times)
    if units[0] != units[1] and known.dtype != times.dtype:
        # Dates are nanoseconds where seconds in float64 would make different ones equal.
        if times.dtype == np.int64 and units == ("seconds", "nanoseconds"):
            return times / NANOSECONDS
        if known.dtype == np.int64 and units == ("nanoseconds", "seconds"):
            return np.round(times * NANOSECONDS).astype(np.int64)
    if None not in units and units[0] != units[1]:
        raise DataError(
            f"{where}: its times look like {units[1]}, those of the data set like {units[0]}", "write them in one unit"
        )
    return times.astype(known.dtype)
