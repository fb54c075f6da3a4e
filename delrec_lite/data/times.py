"""Times of interactions as numbers: Unix times, counters, dates; and what is odd about them."""

import re
from dataclasses import dataclass, field, replace
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
class PartOfTimes:
    """The times of some rows of a log, before it is known whether the others need exact numbers.

    Attributes:
        values: As ``Times.values``, always float64.
        exact: The numbers, or dates as nanoseconds since 1970, int64; None where there are fractions or far dates.
        needs_exact: Whether float64 would make different times equal.
        valid: Whether a row has a time.
        are_dates: Whether all of them are dates.
        zones: How many times name no time zone, and how many name one, of dates in text.
    """

    values: Numbers
    exact: Numbers | None
    needs_exact: bool
    valid: npt.NDArray[np.bool_]
    are_dates: bool = False
    zones: tuple[int, int] = (0, 0)


@dataclass
class TimesSoFar:
    """What holds for the parts of a log together: whether its times are exact, and what is odd about them."""

    kinds: set[bool] = field(default_factory=set)
    can_be_exact: bool = True
    needs_exact: bool = False
    zones: tuple[int, int] = (0, 0)
    sizes: dict[str, int] = field(default_factory=lambda: {unit: 0 for unit, _, _ in _SIZES})

    def add(self, part: PartOfTimes) -> None:
        """Count a part."""
        if not part.valid.any():
            return
        self.kinds.add(part.are_dates)
        self.can_be_exact &= part.exact is not None
        self.needs_exact |= part.needs_exact
        self.zones = (self.zones[0] + part.zones[0], self.zones[1] + part.zones[1])
        sizes = np.abs(part.values[part.valid])
        for unit, low, high in _SIZES:
            self.sizes[unit] += int(((sizes >= low) & (sizes < high)).sum())

    @property
    def is_exact(self) -> bool:
        """Whether all times are ``PartOfTimes.exact``."""
        return self.needs_exact and self.can_be_exact and len(self.kinds) == 1

    def notes(self, name: str) -> tuple[str, ...]:
        """What is odd, a sentence each; ``name`` is the column's."""
        notes = []
        if all(self.zones):
            local, zoned = self.zones
            notes.append(f"{name}: {local} times have no time zone and are read as UTC, {zoned} have one")
        units = [f"{count} like {unit}" for unit, count in self.sizes.items() if count]
        if len(units) > 1 and False in self.kinds:
            mixed = f"{name}: the numbers have several units, {' and '.join(units)}, and are ordered as they are"
            notes.append(f"{mixed}; write all in one unit")
        return tuple(notes)


@dataclass(frozen=True)
class _Moment:
    """Nanoseconds since 1970, and whether the text named its time zone."""

    nanoseconds: int
    zoned: bool


def unit_of(values: Numbers) -> str | None:
    """The unit that Unix times of this size have, by their median; None where none fits."""
    size = float(np.median(np.abs(values.astype(np.float64)))) if len(values) else 0.0
    return next((unit for unit, low, high in _SIZES if low <= size < high), None)


def read_times(column: Any, name: str) -> Times:
    """The times of an Arrow column of numbers, dates or text; see ``part_of_times``."""
    return times_of(part_of_times(column, name), name)


def times_of(part: PartOfTimes, name: str) -> Times:
    """The times of a log that is one part; ``name`` is the column's, for the notes."""
    together = TimesSoFar()
    together.add(part)
    values = part.exact if together.is_exact and part.exact is not None else part.values
    return Times(values, part.valid, together.notes(name))


def part_of_times(column: Any, name: str) -> PartOfTimes:
    """The times of some rows.

    Args:
        column: A chunked array of numbers, dates or text.
        name: Of the column, for errors.

    Raises:
        DataError: A type that has no date, such as times of day.
    """
    pa = arrow()
    kind = column.type
    if pa.types.is_dictionary(kind):
        return part_of_times(column.cast(kind.value_type), name)
    if pa.types.is_time(kind):
        raise DataError(f"{name} holds times of day without a date", "write date and time, such as 2024-01-03T09:12:00")
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        moments, valid = _whole(column)
        unit = column.type.unit
        if unit == "ns":
            return _dates(moments, valid)
        return PartOfTimes(moments / _PER_SECOND[unit], None, False, valid, are_dates=True)
    if pa.types.is_integer(kind) or pa.types.is_duration(kind):
        try:
            return _whole_numbers(*_whole(column))
        except pa.ArrowInvalid:  # uint64 beyond int64
            pass
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy())
    return _of_text(as_text(column, name))


def _of_text(column: Any) -> PartOfTimes:
    pa = arrow()
    filled = pa.compute.if_else(pa.compute.equal(column, ""), pa.scalar(None, pa.string()), column)
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = filled.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pa.types.is_integer(kind):
            return _whole_numbers(*_whole(numbers))
        return _numbers(numbers.fill_null(float("nan")).to_numpy())
    for zone in (None, "UTC"):  # all dates in plain ISO 8601, all without a time zone or all with one: faster
        try:
            moments, valid = _whole(filled.cast(pa.timestamp("ns", zone)))
        except pa.ArrowInvalid:
            continue
        count = int(valid.sum())
        return replace(_dates(moments, valid), zones=(0, count) if zone else (count, 0))
    coded = filled.dictionary_encode().unify_dictionaries().combine_chunks()
    texts = coded.dictionary.to_pylist()
    positions = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return _of_distinct(texts, positions)


def _of_distinct(texts: list[str], positions: Numbers) -> PartOfTimes:
    """Dates, or dates and numbers: the value of each distinct text, and the rows' positions in them."""
    moments = [_moment(text) for text in texts]
    numbers = [_number(text) if moment is None else np.nan for text, moment in zip(texts, moments, strict=True)]
    zoned, local = ([moment is not None and moment.zoned is zone for moment in moments] for zone in (True, False))
    counts = tuple(int(np.append(mask, False)[positions].sum()) for mask in (local, zoned))
    zones = (counts[0], counts[1])
    is_number = np.append(np.isfinite(numbers), False)
    if not is_number.any():
        since = np.array([0 if moment is None else moment.nanoseconds for moment in moments] + [0], object)
        valid = np.array([moment is not None for moment in moments] + [False])
        part = _dates(since, valid)
        exact = None if part.exact is None else part.exact[positions]
        return replace(part, values=part.values[positions], exact=exact, valid=valid[positions], zones=zones)
    mixed = [
        number if moment is None else moment.nanoseconds / NANOSECONDS
        for number, moment in zip(numbers, moments, strict=True)
    ]
    return replace(_numbers(np.append(mixed, np.nan)[positions]), zones=zones)


def _whole(column: Any) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Whole numbers, and whether each is there."""
    pa = arrow()
    valid = column.is_valid().to_numpy()
    return column.cast(pa.int64()).fill_null(0).to_numpy(), np.asarray(valid, dtype=bool)


def _whole_numbers(values: Numbers, valid: npt.NDArray[np.bool_]) -> PartOfTimes:
    return PartOfTimes(values.astype(np.float64), values, bool(len(values) and np.abs(values).max() >= _EXACT), valid)


def _numbers(values: Numbers) -> PartOfTimes:
    return PartOfTimes(values, None, False, np.isfinite(values))


def _dates(moments: Numbers, valid: npt.NDArray[np.bool_]) -> PartOfTimes:
    """Nanoseconds since 1970 as seconds; as they are, too, unless they are too far away for int64."""
    exact = moments.astype(np.int64) if not len(moments) or np.abs(moments).max() < 2**63 else None
    seconds = (moments // 1000).astype(np.float64) / 1e6
    return PartOfTimes(seconds, exact, bool((moments % 1000).any()), valid, are_dates=True)


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
