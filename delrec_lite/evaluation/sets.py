"""A set for each item, such as the users who had it or the words of its title, as bits; and distances of sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delrec_lite.data.sequences import joined_blocks, lengths_of
from delrec_lite.data.types import Ints, evenly
from delrec_lite.evaluation.significance import Doubles

Bytes = npt.NDArray[np.uint8]
# How many bits of a byte are set.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)
# Memory that the sets of a catalogue may take.
MOST_BYTES = 1 << 27
# Bytes of sets that are compared at once.
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class ItemSets:
    """A set for each of the chosen items.

    Attributes:
        bits: Members of each set, packed, uint8 ``[chosen, members / 8]``.
        sizes: How many members each set has, int64 ``[chosen]``.
        row_of: The row of each item, int64 ``[items]``, -1 for those that were not chosen.
    """

    bits: Bytes
    sizes: Ints
    row_of: Ints

    @classmethod
    def of_words(cls, words: Iterable[Iterable[str]], chosen: Ints, items: int) -> "ItemSets":
        """Of the words, or other features, of each chosen item.

        Args:
            words: Of each chosen item.
            chosen: Item indices, each once.
            items: Number of all items.
        """
        numbers: dict[str, int] = {}
        pairs = [(n, numbers.setdefault(word, len(numbers))) for n, own in enumerate(words) for word in own]
        rows, members = np.array(pairs, np.int64).reshape(-1, 2).T
        # Of a huge vocabulary some words share a bit.
        width = min(max(1, len(numbers)), _most_members(len(chosen)))
        return cls._of(rows, members % width, width, chosen, items)

    @classmethod
    def of_users(cls, sequences: Sequence[Ints], chosen: Ints, items: int) -> "ItemSets":
        """Of the users who have each chosen item; of very many users, some evenly spaced ones stand for all.

        Args:
            sequences: Items of each user.
            chosen: Item indices, each once.
            items: Number of all items.
        """
        users = evenly(len(sequences), _most_members(len(chosen)))
        part = sequences if len(users) == len(sequences) else [sequences[user] for user in users]
        row_of, lengths = _rows(chosen, items), lengths_of(part)
        pairs = [np.empty((2, 0), np.int64)]
        for block, joined in joined_blocks(part):
            both = np.stack([row_of[joined], np.repeat(np.arange(block.start, block.stop), lengths[block])])
            pairs.append(both[:, both[0] >= 0])
        rows, members = np.concatenate(pairs, 1)
        return cls._of(rows, members, len(users), chosen, items)

    @classmethod
    def _of(cls, rows: Ints, members: Ints, width: int, chosen: Ints, items: int) -> "ItemSets":
        bits = np.zeros((len(chosen), -(-width // 8)), np.uint8)
        np.bitwise_or.at(bits, (rows, members >> 3), (1 << (members & 7)).astype(np.uint8))
        return cls(bits, _ones(bits), _rows(chosen, items))

    def cosine_distances(self, first: Ints, second: Ints) -> Doubles:
        """1 - shared / sqrt(size of the first * size of the second); 1 where a set is empty.

        Args:
            first: Chosen items, int64 ``[pairs]``.
            second: Others, likewise.

        Returns:
            float64 ``[pairs]``.
        """
        both, of_first, of_second = self._shared(first, second)
        distances: Doubles = 1 - both / np.sqrt(np.maximum(1, of_first * of_second))
        return distances

    def hamming_distances(self, first: Ints, second: Ints) -> Doubles:
        """How many members one set has and the other lacks; as ``cosine_distances``."""
        both, of_first, of_second = self._shared(first, second)
        distances: Doubles = (of_first + of_second - 2 * both).astype(np.float64)
        return distances

    def _shared(self, first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
        """The number of members that both sets have, and the sizes of the first and of the second."""
        first, second = self.row_of[first], self.row_of[second]
        step = max(1, BLOCK_BYTES // self.bits.shape[1])
        parts = [slice(at, at + step) for at in range(0, len(first), step)]
        both = [_ones(self.bits[first[part]] & self.bits[second[part]]) for part in parts]
        return np.concatenate([np.empty(0, np.int64), *both]), self.sizes[first], self.sizes[second]


def _ones(bits: Bytes) -> Ints:
    """The number of set bits in each row, int64 ``[rows]``."""
    ones: Ints = _ONES[bits].sum(1, dtype=np.int64)
    return ones


def _rows(chosen: Ints, items: int) -> Ints:
    row_of = np.full(items, -1)
    row_of[chosen] = np.arange(len(chosen))
    return row_of


def _most_members(sets: int) -> int:
    return max(64, 8 * MOST_BYTES // max(1, sets))
