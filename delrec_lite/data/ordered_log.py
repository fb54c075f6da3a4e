"""A log in the order of users and times, in plain files that are read in blocks of whole users."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.duplicates import Duplicates, exact_duplicates, without_duplicates
from delrec_lite.data.readers import Interactions
from delrec_lite.data.sequences import blocks_of
from delrec_lite.data.types import Bools, Ints

Batch = tuple[Ints, npt.NDArray[Any], npt.NDArray[Any]]
ITEM = np.dtype("<i4")


@dataclass
class OrderedLog:
    """Items and times of all users, one user after another, each in order of time.

    Attributes:
        folder: Has ``items.bin`` (int32) and ``times.bin``.
        users: Numbers of the users, ascending, ``[users]``.
        lengths: How many rows each has, ``[users]``.
        time: Type of the times.
    """

    folder: Path
    users: Ints
    lengths: Ints
    time: npt.DTypeLike

    def blocks(self) -> Iterator[tuple[slice, Ints, npt.NDArray[Any]]]:
        """Users, their items and times, block by block."""
        with (self.folder / "items.bin").open("rb") as items, (self.folder / "times.bin").open("rb") as times:
            for start, stop in blocks_of(self.lengths):
                count = int(self.lengths[start:stop].sum())
                read = np.fromfile(items, ITEM, count).astype(np.int64)
                yield slice(start, stop), read, np.fromfile(times, self.time, count)

    def pairs(self) -> Iterator[tuple[Ints, npt.NDArray[Any]]]:
        """Index of user and item of each row, block by block."""
        with (self.folder / "items.bin").open("rb") as items:
            for start, stop in blocks_of(self.lengths):
                lengths = self.lengths[start:stop]
                yield np.repeat(np.arange(start, stop), lengths), np.fromfile(items, ITEM, int(lengths.sum()))

    def only(self, users: Bools, items: Bools, folder: Path) -> "OrderedLog":
        """The rows of some users and items, written to another folder; items are numbered anew.

        Args:
            users: Bool ``[users]``.
            items: Bool ``[items]``.
            folder: Is made.
        """
        folder.mkdir()
        number = np.cumsum(items) - 1
        lengths = np.zeros(len(self.lengths), np.int64)
        with (folder / "items.bin").open("wb") as item_file, (folder / "times.bin").open("wb") as time_file:
            for part, of_item, times in self.blocks():
                rows = np.repeat(np.arange(part.stop - part.start), self.lengths[part])
                kept = users[part][rows] & items[of_item]
                lengths[part] = np.bincount(rows[kept], minlength=part.stop - part.start)
                item_file.write(number[of_item[kept]].astype(ITEM).tobytes())
                time_file.write(times[kept].tobytes())
        return OrderedLog(folder, self.users[users], lengths[users], self.time)


@dataclass
class Written:
    """What ``write_ordered`` found.

    Attributes:
        log: The rows.
        rows: How many there were.
        duplicates: Rows with user, item and time of an earlier row.
    """

    log: OrderedLog
    rows: int
    duplicates: int


def write_ordered(batches: Iterable[Batch], folder: Path, time: npt.DTypeLike, items: int, rule: Duplicates) -> Written:
    """Write rows that come in order, without the duplicates that a rule leaves out.

    Args:
        batches: As ``LogTable.sorted_rows``.
        folder: Is made.
        time: Type of the times.
        items: How many there are.
        rule: See ``without_duplicates``.
    """
    folder.mkdir()
    numbers, lengths, rows, duplicates = [], [], 0, 0
    names = ("",) * items  # nothing here reads an id
    with (folder / "items.bin").open("wb") as item_file, (folder / "times.bin").open("wb") as time_file:
        for users, of_item, times in _whole_users(batches):
            starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
            found, positions = users[starts], np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(users))))
            log = Interactions((), names, positions, of_item.astype(np.int64), times)
            rows += len(log)
            duplicates += _exact(log)
            log = without_duplicates(log, rule)
            numbers.append(found.astype(np.int64))
            lengths.append(np.bincount(log.users, minlength=len(found)))
            item_file.write(log.items.astype(ITEM).tobytes())
            time_file.write(log.times.astype(time).tobytes())
    empty = np.empty(0, np.int64)
    ordered = OrderedLog(folder, np.concatenate([*numbers, empty]), np.concatenate([*lengths, empty]), time)
    return Written(ordered, rows, duplicates)


def _exact(log: Interactions) -> int:
    """``exact_duplicates`` of a log in order: only rows beside one with the same user and time are looked at."""
    tied = np.zeros(len(log), bool)
    same = (log.users[1:] == log.users[:-1]) & (log.times[1:] == log.times[:-1])
    tied[1:] |= same
    tied[:-1] |= same
    return exact_duplicates(log.take(tied))


def _whole_users(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches none of which ends within a user's rows."""
    held: list[Batch] = []
    for batch in batches:
        users = batch[0]
        if not len(users):
            continue
        cut = int(np.searchsorted(users, users[-1]))
        if cut or (held and held[-1][0][-1] != users[0]):
            ready = [*held, (users[:cut], batch[1][:cut], batch[2][:cut])]
            yield _joined(ready)
            held = []
        held.append((users[cut:], batch[1][cut:], batch[2][cut:]))
    if held:
        yield _joined(held)


def _joined(parts: list[Batch]) -> Batch:
    users, items, times = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return users, items, times


def order_statistics(log: OrderedLog, ranks: list[int]) -> npt.NDArray[Any]:
    """The times of some ranks, from 0, as ``ordered_keys``; each reading of all times finds 16 more of their bits."""
    return np.array([_nth(log, rank) for rank in ranks], dtype=np.uint64)


def _nth(log: OrderedLog, rank: int) -> int:
    prefix = 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for _, _, times in log.blocks():
            keys = ordered_keys(times)
            if shift < 48:
                keys = keys[(keys >> np.uint64(shift + 16)) == prefix]
            counts += np.bincount(((keys >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)
        digit = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        rank -= int(counts[:digit].sum())
        prefix = prefix << 16 | digit
    return prefix


def ordered_keys(times: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Times as unsigned numbers in the same order."""
    top = np.uint64(1 << 63)
    if times.dtype == np.int64:
        return times.view(np.uint64) ^ top
    bits = (times + 0.0).view(np.uint64)  # -0.0 equals 0.0
    return np.where(bits & top, ~bits, bits | top)
