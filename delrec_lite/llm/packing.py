"""Packs many histories into few rows that share the prompt's prefix, without padding to the longest.

A row is the prefix followed by several segments. A segment attends to the prefix and itself only, and
its positions continue from the prefix, so its states are the same as alone; the prefix is computed once per row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segment:
    """One history after the prefix.

    Attributes:
        ids: Extended token ids.
        reads: Positions in ``ids`` where an answer is read.
    """

    ids: Sequence[int]
    reads: Sequence[int]


@dataclass(frozen=True)
class Packed:
    """Rows ready for the model; see ``ItemLM.hidden``. ``read`` is in the order of the segments' reads."""

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    read: npt.NDArray[np.int64]


def pack(prefix: Sequence[int], segments: Sequence[Segment], capacity: int) -> Packed:
    """Fill rows first-fit, longest segment first.

    Args:
        prefix: Token ids that every segment follows.
        segments: At least one, none empty.
        capacity: Maximum segment tokens per row; a longer segment gets its own row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for s in sorted(range(len(segments)), key=lambda s: -len(segments[s].ids)):
        need = len(segments[s].ids)
        r = next((r for r, free in enumerate(room) if free >= need), None)
        if r is None:
            rows.append([])
            room.append(max(capacity, need))
            r = len(rows) - 1
        rows[r].append(s)
        room[r] -= need
    p = len(prefix)
    length = p + max(sum(len(segments[s].ids) for s in row) for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    positions = np.zeros((len(rows), length), np.int64)
    mask = np.zeros((len(rows), 1, length, length), bool)
    ids[:, :p] = prefix
    positions[:, :p] = np.arange(p)
    mask[:, 0, :p, :p] = np.tri(p, dtype=bool)
    read: list[list[int]] = [[] for _ in segments]
    for r, row in enumerate(rows):
        at = p
        for s in row:
            n = len(segments[s].ids)
            ids[r, at : at + n] = segments[s].ids
            positions[r, at : at + n] = np.arange(p, p + n)
            mask[r, 0, at : at + n, :p] = True
            mask[r, 0, at : at + n, at : at + n] = np.tri(n, dtype=bool)
            read[s] = [r * length + at + i for i in segments[s].reads]
            at += n
        # Padding attends to itself: an empty row of the mask would give NaN.
        pad = np.arange(at, length)
        mask[r, 0, pad, pad] = True
    return Packed(ids, positions, mask, np.array([i for indices in read for i in indices], np.int64))
