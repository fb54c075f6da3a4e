"""What every engine does: histories in, scores of the catalogue out; the prompt's prefix is its own affair."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# An item of a history: its index in the catalogue, or a vector for an item that the catalogue does not have.
Entry = int | Floats


class Engine(Protocol):
    """Evaluates the fixed prefix once, then answers requests, one or many at a time; safe under threads."""

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """Scores of the whole catalogue after each history: float32 ``[requests, items]``."""

    def states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """The last hidden state of each history, for items outside the catalogue: float32 ``[requests, hidden]``."""

    def close(self) -> None:
        """Free the model."""
