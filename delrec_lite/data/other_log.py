"""Tells a log whose ids or times are written otherwise than those of a data set that it should extend."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.readers import Interactions
from delrec_lite.data.times import unit_of
from delrec_lite.data.types import Dataset
from delrec_lite.data.waiting import Waiting
from delrec_lite.errors import DataError

# How many times as large the times of a newer log may be, where one of them has no unit that its size tells.
MOST_LATER = 1000
_ONE_UNIT = "write them in one unit"


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
        # By whole microseconds, as the readers do, so that a known row stays one.
        if times.dtype == np.int64 and units == ("seconds", "nanoseconds"):
            return (times // 1000) / 1e6
        if known.dtype == np.int64 and units == ("nanoseconds", "seconds"):
            return np.round(times * 1e6).astype(np.int64) * 1000
    if units[0] != units[1] and (None not in units or _apart(known, times)):
        own, other = (unit or "a counter" for unit in units)
        raise DataError(f"{where}: its times look like {other}, those of the data set like {own}", _ONE_UNIT)
    return times.astype(known.dtype)


def _apart(known: npt.NDArray[Any], times: npt.NDArray[Any]) -> bool:
    """Whether the sizes of times are too different for one unit: a counter of days beside seconds."""
    sizes = sorted(float(np.median(np.abs(part.astype(np.float64)))) for part in (known, times))
    return sizes[1] > MOST_LATER * sizes[0]
