"""The sequences of many users over one array, which may be a memory map: a sequence is read when it is asked for."""

import mmap
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
# Interactions that are in memory at once where all of them are passed over.
BLOCK = 1 << 20


class MappedSequences(Sequence[Ints]):
    """Parts of one array of items.

    Args:
        items: Of all users, one after another; any integers, ``[interactions]``.
        starts: Where each sequence begins in ``items``, int64 ``[users]``.
        lengths: Of the sequences, int64 ``[users]``.
    """

    def __init__(self, items: npt.NDArray[Any], starts: Ints, lengths: Ints) -> None:
        self._items, self._starts, self.lengths = items, starts, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Ints: ...

    @overload
    def __getitem__(self, index: slice) -> "MappedSequences": ...

    def __getitem__(self, index: int | slice) -> "Ints | MappedSequences":
        if isinstance(index, slice):
            return MappedSequences(self._items, self._starts[index], self.lengths[index])
        start = self._starts[index]
        return np.asarray(self._items[start : start + self.lengths[index]], dtype=np.int64)

    def __iter__(self) -> Iterator[Ints]:
        for start, length in zip(self._starts.tolist(), self.lengths.tolist(), strict=True):
            yield np.asarray(self._items[start : start + length], dtype=np.int64)

    def first(self, lengths: Ints) -> "MappedSequences":
        """The first items of each sequence: ``lengths`` of them."""
        return MappedSequences(self._items, self._starts, np.maximum(lengths, 0))

    def joined(self) -> Ints:
        """All items, one sequence after another."""
        if not len(self) or (self._starts[1:] == self._starts[:-1] + self.lengths[:-1]).all():
            start = self._starts[0] if len(self) else 0
            return np.asarray(self._items[start : start + self.lengths.sum()], dtype=np.int64)
        within = np.arange(self.lengths.sum()) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        joined: Ints = self._items[np.repeat(self._starts, self.lengths) + within].astype(np.int64)
        return joined

    def forget(self) -> None:
        """Let the system take back the memory of a map's pages that were read; they are read again when needed."""
        mapped = getattr(self._items, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def lengths_of(sequences: Sequence[Ints]) -> Ints:
    """The length of each sequence: int64 ``[users]``."""
    if isinstance(sequences, MappedSequences):
        return sequences.lengths
    return np.array([len(s) for s in sequences], dtype=np.int64)


def blocks_of(lengths: Ints, most: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Ranges of users, from and to, that have together at most ``most`` interactions, or are one user alone."""
    ends = np.cumsum(lengths)
    at = 0
    while at < len(lengths):
        before = int(ends[at - 1]) if at else 0
        to = max(at + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield at, to
        at = to


def joined_blocks(sequences: Sequence[Ints], most: int = BLOCK) -> Iterator[tuple[slice, Ints]]:
    """Users of a block, and their items one after another; only one block is in memory."""
    for start, stop in blocks_of(lengths_of(sequences), most):
        part = sequences[start:stop]
        if isinstance(part, MappedSequences):
            yield slice(start, stop), part.joined()
            part.forget()
        else:
            yield slice(start, stop), np.concatenate(part)


def had_before(sequences: Sequence[Ints], targets: Ints) -> npt.NDArray[np.bool_]:
    """Whether the user had the item at a position before it: bool ``[targets]``.

    Args:
        sequences: Of all users.
        targets: User and position, int64 ``[targets, 2]``, ordered by user.
    """
    had = np.zeros(len(targets), dtype=bool)
    lengths = lengths_of(sequences)
    users, first, counts = np.unique(targets[:, 0], return_index=True, return_counts=True)
    for start, stop in blocks_of(lengths[users]):
        part = [sequences[user] for user in users[start:stop].tolist()]
        items, sizes = np.concatenate(part), lengths[users[start:stop]]
        starts = np.cumsum(sizes) - sizes
        # The n-th target of every user that has so many.
        for n in range(int(counts[start:stop].max())):
            has = np.flatnonzero(counts[start:stop] > n)
            rows = first[start:stop][has] + n
            if n:
                for user, row in zip(has.tolist(), rows.tolist(), strict=True):
                    position = targets[row, 1]
                    had[row] = (part[user][:position] == part[user][position]).any()
                continue
            places = starts + targets[rows, 1]
            same = items == np.repeat(items[places], sizes)
            same &= np.arange(len(items)) < np.repeat(places, sizes)
            had[rows] = np.logical_or.reduceat(same, starts)
    return had
