"""Negatives of a step, drawn half uniformly and half by popularity, with the weights that make up for the drawing."""

from dataclasses import dataclass

import numpy as np

from delrec_lite.data.types import Floats, Ints

STREAM = 7  # of the random numbers, beside those of other draws from the same seed and step


@dataclass(frozen=True)
class Draw:
    """Negatives that all positions of a step share.

    Attributes:
        items: Item indices, ascending, each once: int64 ``[m]``.
        log_weights: Logarithm of how often each was drawn relative to its expected number: float32 ``[m]``. Sums over
            the draw with these weights have the sums over the catalogue as their expectation ("log-Q correction").
    """

    items: Ints
    log_weights: Floats


class NegativeSampler:
    """Draws negatives, the same for the same seed and step.

    Uniform draws keep the weight of rare items small, draws by popularity find the items that compete for most targets.
    Both halves are drawn with replacement.

    Args:
        popularity: How often each item occurs in training, ``[items]``.
        count: Draws of a step.
        seed: Of the stage.
    """

    def __init__(self, popularity: Ints, count: int, seed: int) -> None:
        self._items, self._seed = len(popularity), seed
        self._by_popularity = count // 2 if popularity.sum() else 0
        self._uniform = count - self._by_popularity
        self._cumulated = np.cumsum(popularity, dtype=np.float64)
        total = max(1.0, float(self._cumulated[-1]))
        self._expected = self._uniform / self._items + self._by_popularity * (popularity / total)

    def at(self, step: int) -> Draw:
        """The negatives of ``step``."""
        rng = np.random.default_rng([self._seed, step, STREAM])
        uniform = rng.integers(0, self._items, self._uniform)
        places = rng.random(self._by_popularity) * self._cumulated[-1]
        popular = np.searchsorted(self._cumulated, places, side="right").clip(max=self._items - 1)
        items, counts = np.unique(np.concatenate([uniform, popular]), return_counts=True)
        return Draw(items, np.log(counts / self._expected[items]).astype(np.float32))
