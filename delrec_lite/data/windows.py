"""Cuts sequences into windows at random, so that each step between items is trained once."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Ints


def windows(sequences: Sequence[Ints], length: int, rng: np.random.Generator) -> list[Ints]:
    """Windows of at most ``length + 1`` items; neighbours share one item.

    Every step from one item to the next is in exactly one window: ``length`` inputs, each with the item after it as
    its target. A long sequence is cut at random, so that over epochs an item follows histories of any length.

    Args:
        sequences: Item indices, oldest first.
        length: Maximum inputs of a window.
        rng: Chooses the cuts.
    """
    out = []
    for sequence in sequences:
        last = len(sequence) - 1  # steps from one item to the next
        if last < 1:
            continue
        first_cut = last if last <= length else int(rng.integers(1, length + 1))
        cuts = [0, *range(first_cut, last, length), last]
        out += [sequence[a : b + 1] for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return out
