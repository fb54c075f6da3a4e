"""Times of interactions as numbers: Unix times, counters, dates; and what is odd about them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.packages import arrow
from delrec_lite.data.values import as_text
from delrec_lite.errors import DataError

Numbers = npt.NDArray[Any]
NANOSECONDS = 10**9
# Above it float64 does not hold every whole number.
_EXACT = 2**53
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}
# Sizes of Unix times from 1973 to 5138, by their unit.
_SIZES = (
    ("seconds", 1e8, 1e11),
    ("milliseconds", 1e11, 1e14),
    ("microseconds", 1e14, 1e17),
    ("nanoseconds", 1e17, 1e20),
)
_DATE = re.compile(
    r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})"
    r"(?:(?:\s*T\s*|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,12}))?)?(?:\s*([AP])M)?)?"
    r"\s*(Z|(?:UTC|GMT)?\s*[+-]\d{2}(?::?\d{2})?|UTC|GMT)?(?:\s*UTC|\[[\w/+-]*\])?",
    re.IGNORECASE | re.ASCII,
)
_AMBIGUOUS = re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b")
_NAMED_MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)


@dataclass(frozen=True)
class Times:
    """The times of a log.

    Attributes:
        values: They order the rows: float64, dates as seconds since 1970; int64 where float64 would make different
            times equal, dates as nanoseconds then. ``[rows]``.
        valid: Whether a row has a time, bool ``[rows]``.
        notes: What is odd about them, a sentence each.
    """

    values: Numbers
    valid: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Moment:
    """Nanoseconds since 1970, and whether the text named its time zone."""

    nanoseconds: int
    zoned: bool


def read_times(column: Any, name: str) -> Times:
    """The times of an Arrow column of numbers, dates or text.

    Args:
        column: A chunked array.
        name: Of the column, for errors and notes.

    Raises:
        DataError: A type that has no date, such as times of day.
    """
    pa = arrow()
    kind = column.type
    if pa.types.is_dictionary(kind):
        return read_times(column.cast(kind.value_type), name)
    if pa.types.is_time(kind):
        raise DataError(f"{name} holds times of day without a date", "write date and time, such as 2024-01-03T09:12:00")
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        moments, valid = _whole(column)
        unit = column.type.unit
        return Times(_seconds(moments) if unit == "ns" else moments / _PER_SECOND[unit], valid)
    if pa.types.is_integer(kind) or pa.types.is_duration(kind):
        try:
            return _checked(*_whole(column), name)
        except pa.ArrowInvalid:  # uint64 beyond int64
            pass
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return _checked(values, np.isfinite(values), name)
    return _of_text(as_text(column, name), name)


def _of_text(column: Any, name: str) -> Times:
    pa = arrow()
    filled = pa.compute.if_else(pa.compute.equal(column, ""), pa.scalar(None, pa.string()), column)
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = filled.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pa.types.is_integer(kind):
            return _checked(*_whole(numbers), name)
        values = numbers.fill_null(float("nan")).to_numpy()
        return _checked(values, np.isfinite(values), name)
    coded = filled.dictionary_encode().unify_dictionaries().combine_chunks()
    texts = coded.dictionary.to_pylist()
    positions = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return _of_distinct(texts, positions, name)


def _of_distinct(texts: list[str], positions: Numbers, name: str) -> Times:
    """Dates, or dates and numbers: the value of each distinct text, and the rows' positions in them."""
    moments = [_moment(text) for text in texts]
    numbers = [_number(text) if moment is None else np.nan for text, moment in zip(texts, moments, strict=True)]
    zoned, local = ([moment is not None and moment.zoned is zone for moment in moments] for zone in (True, False))
    counts = [int(np.append(mask, False)[positions].sum()) for mask in (zoned, local)]
    notes = []
    if all(counts):
        notes.append(f"{name}: {counts[1]} times have no time zone and are read as UTC, {counts[0]} have one")
    is_number = np.append(np.isfinite(numbers), False)
    if not is_number.any():
        values = _seconds(np.array([0 if moment is None else moment.nanoseconds for moment in moments] + [0], object))
        valid = np.array([moment is not None for moment in moments] + [False])
        return Times(values[positions], valid[positions], tuple(notes))
    mixed = [
        number if moment is None else moment.nanoseconds / NANOSECONDS
        for number, moment in zip(numbers, moments, strict=True)
    ]
    in_rows = np.append(mixed, np.nan)[positions]
    return _checked(in_rows, np.isfinite(in_rows), name, tuple(notes))


def _whole(column: Any) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Whole numbers, and whether each is there."""
    pa = arrow()
    valid = column.is_valid().to_numpy()
    return column.cast(pa.int64()).fill_null(0).to_numpy(), np.asarray(valid, dtype=bool)


def _seconds(moments: Numbers) -> Numbers:
    """Nanoseconds since 1970 as float64 seconds; unchanged, as int64, if parts of a microsecond would be lost."""
    if (moments % 1000).any() and np.abs(moments).max() < 2**63:
        return moments.astype(np.int64)
    return (moments // 1000).astype(np.float64) / 1e6


def _checked(values: Numbers, valid: npt.NDArray[np.bool_], name: str, notes: tuple[str, ...] = ()) -> Times:
    """Numbers, with a note if they have several units."""
    if values.dtype == np.int64 and (not len(values) or np.abs(values).max() < _EXACT):
        values = values.astype(np.float64)
    sizes = np.abs(values[valid])
    counts = {unit: int(((sizes >= low) & (sizes < high)).sum()) for unit, low, high in _SIZES}
    units = [f"{count} like {unit}" for unit, count in counts.items() if count]
    if len(units) > 1:
        mixed = f"{name}: the numbers have several units, {' and '.join(units)}, and are ordered as they are"
        notes = (*notes, f"{mixed}; write all in one unit")
    return Times(values, valid, notes)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _moment(text: str) -> _Moment | None:
    """A date in ISO 8601, or as e-mails have it; UTC if it names no zone."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            return _other_moment(text)
        year, _, month, day, hour, minute, second, fraction, half, zone = match.groups()
        hours = int(hour or 0)
        if half:
            if not 1 <= hours <= 12:
                return None
            hours = hours % 12 + (12 if half in "pP" else 0)
        date = datetime(int(year), int(month), int(day), hours, int(minute or 0), int(second or 0), tzinfo=UTC)
        seconds = _since_1970(date) - _offset(zone or "")
    except (ValueError, OverflowError, TypeError, IndexError):  # the last two from parsedate_to_datetime
        return None
    return _Moment(seconds * NANOSECONDS + int((fraction or "0").ljust(9, "0")[:9]), zone is not None)


def _other_moment(text: str) -> _Moment | None:
    if _NAMED_MONTH.search(text):
        date = parsedate_to_datetime(text)
    elif text[:4].isdecimal():
        date = datetime.fromisoformat(text)
    else:
        return None
    since = _since_1970(date if date.tzinfo else date.replace(tzinfo=UTC))
    return _Moment(since * NANOSECONDS + date.microsecond * 1000, date.tzinfo is not None)


def _since_1970(date: datetime) -> int:
    """Whole seconds, rounded down."""
    since = date - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86400 + since.seconds


def _offset(zone: str) -> int:
    """Seconds that a zone is ahead of UTC: ``+02:00``, ``UTC+2``, ``Z``."""
    digits = re.sub(r"[^\d+-]", "", zone)
    if not digits:
        return 0
    hours, minutes = int(digits[1:3]), int(digits[3:5] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(zone)
    return (-1 if digits[0] == "-" else 1) * (hours * 3600 + minutes * 60)


def why_invalid(name: str, text: str) -> str:
    """What is wrong with a time that cannot be read."""
    if _AMBIGUOUS.match(text) and not _DATE.fullmatch(text):
        return f"{name} is {text!r}: which number is the day and which the month? write year-month-day"
    return f"{name} is {text!r}, neither a number nor a date"
