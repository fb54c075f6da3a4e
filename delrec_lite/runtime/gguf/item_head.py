"""The scores of some items out of a hidden state, by the rows of a GGUF file, as llama.cpp computes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.runtime.gguf.header import Header
from delrec_lite.runtime.gguf.rows import OUTPUT, TokenRows

# Items whose rows are unpacked at once, where all are scored, and where some are: 256 rows of 576 numbers take 0.4 ms,
# a thousand at once 5 ms, because memory for them comes anew from the system.
BLOCK, FEW = 1 << 15, 256


class ItemHead:
    """Scores items by the rows of ``output.weight``.

    llama.cpp brings a hidden state to the rows' own type before it multiplies them (8 bits for rows of 8 bits, a scale
    for every 32 numbers). The same is done here, so that the scores are the logits up to the order of sums.

    Args:
        path: The GGUF file.
        header: Its header.
        base: Token id of item 0.
        items: How many there are.
    """

    def __init__(self, path: Path, header: Header, base: int, items: int) -> None:
        self._rows = TokenRows(path, header, OUTPUT)
        self._base, self._items = base, items

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, part: slice) -> Floats:
        """The rows of some items, one after another: float32 ``[n, hidden]``."""
        return self._rows.rows(np.arange(*part.indices(self._items)) + self._base)

    def scores_of(self, state: Floats, items: Ints | Sequence[int]) -> Floats:
        """Scores of some items: float32 ``[n]``.

        Args:
            state: After the final norm, float32 ``[hidden]``.
            items: Indices.
        """
        tokens, rounded = np.asarray(items, np.int64) + self._base, self._rows.in_their_type(state)
        scores = np.empty(len(tokens), np.float32)
        for at in range(0, len(tokens), FEW):
            scores[at : at + FEW] = self._rows.rows(tokens[at : at + FEW]) @ rounded
        return scores

    def scores(self, states: Floats) -> Floats:
        """Scores of all items: float32 ``[states, items]``; seconds where there are a million."""
        rounded = np.stack([self._rows.in_their_type(state) for state in states])
        scores = np.empty((len(states), self._items), np.float32)
        for at in range(0, self._items, BLOCK):
            scores[:, at : at + BLOCK] = rounded @ self[at : at + BLOCK].T
        return scores
