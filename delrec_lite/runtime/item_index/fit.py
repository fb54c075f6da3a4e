"""Fits an item index: the directions in which hidden states and item rows agree most, and how many of them suffice.

A score is the product of a hidden state and an item's row. Both have hundreds of dimensions, but few matter: the
product of two shorter vectors comes close to it. The shorter vectors of a given length that minimise the mean square
error, over all pairs of a state and an item, are the first singular vectors of ``X C^1/2``: ``X`` are the rows less
their mean, ``C`` the second moments of the states. The principal components of the rows alone need twice the length for
the same error, because states use other directions than rows do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.evaluation.best import best

# Dimensions and candidates to choose from, and the share of the best items that they must find. The cost of a dimension
# is to read its numbers of all items, that of a candidate to read and unpack its row: both in nanoseconds on one core.
RANKS = (16, 24, 32, 48, 64, 96, 128)
CANDIDATES = (250, 500, 1000, 2000, 4000)
RECALL, TOP = 0.995, 10
ITEM_DIMENSION_NS, CANDIDATE_NS = 0.22, 1600.0
# Added to the states' second moments, as a share of their mean: directions that few states showed count too.
SHRINKAGE = 0.1
# Items whose rows are float32 at once, and states whose scores are.
BLOCK, STATES = 1 << 15, 32


@dataclass(frozen=True)
class Maps:
    """What shortens rows and states to vectors whose product is nearly the score.

    Attributes:
        items: float32 ``[hidden, rank]``, for rows less their mean.
        states: float32 ``[hidden, rank]``.
        mean: The rows' mean, float32 ``[hidden]``.
    """

    items: Floats
    states: Floats
    mean: Floats

    def first(self, rank: int) -> "Maps":
        """With the first dimensions alone: the best ones of that number."""
        return Maps(self.items[:, :rank], self.states[:, :rank], self.mean)

    def shortened(self, rows: Any) -> Floats:
        """The short vectors of items: float32 ``[items, rank]``.

        Args:
            rows: By which items are scored, ``[items, hidden]`` in any type of float.
        """
        short = np.empty((len(rows), self.items.shape[1]), np.float32)
        for part in _blocks(len(rows)):
            short[part] = (np.asarray(rows[part], np.float32) - self.mean) @ self.items
        return short


def fit_maps(rows: Any, states: Floats, rank: int = RANKS[-1]) -> Maps:
    """Fit the maps.

    Args:
        rows: By which the items are scored, ``[items, hidden]`` in any type of float.
        states: Hidden states of many requests, float32 ``[n, hidden]``.
        rank: Dimensions of the short vectors, at most ``hidden``.
    """
    hidden = states.shape[1]
    sums, products = np.zeros(hidden), np.zeros((hidden, hidden))
    for part in _blocks(len(rows)):
        block = np.asarray(rows[part], np.float32)
        sums += block.sum(0, dtype=np.float64)
        products += block.T @ block
    mean = sums / len(rows)
    products -= len(rows) * np.outer(mean, mean)
    moments = states.T.astype(np.float64) @ states / len(states)
    moments += SHRINKAGE * np.trace(moments) / hidden * np.eye(hidden)
    values, vectors = np.linalg.eigh(moments)
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    first = np.linalg.eigh(root @ products @ root)[1][:, ::-1][:, : min(rank, hidden)]
    return Maps(*(part.astype(np.float32) for part in (root @ first, inverse @ first, mean)))


@dataclass(frozen=True)
class Choice:
    """How short the vectors of an index are, and how many of the best items by them are scored exactly.

    Attributes:
        rank: Dimensions.
        candidates: Items that are scored exactly.
        recall: Share of the first ten of the whole catalogue that are among them, on states that were not fitted.
        states: How many states it was measured with.
    """

    rank: int
    candidates: int
    recall: float
    states: int


def choose(rows: Any, maps: Maps, short: Floats, states: Floats) -> Choice | None:
    """The fastest choice that finds enough of the best items; None if none does.

    Args:
        rows: As in ``fit_maps``.
        maps: Of the largest rank.
        short: The items' vectors by these maps.
        states: Hidden states of requests other than those that were fitted, float32 ``[n, hidden]``.
    """
    ranks = [rank for rank in RANKS if rank <= short.shape[1]] or [short.shape[1]]
    places = np.concatenate([_places(rows, maps, short, states[at : at + STATES], ranks) for at in _steps(states)], 1)
    choices = [
        Choice(rank, candidates, round(float((places[n] < candidates).mean()), 4), len(states))
        for n, rank in enumerate(ranks)
        for candidates in CANDIDATES
    ]
    enough = [choice for choice in choices if choice.recall >= RECALL]
    return min(enough, key=lambda c: cost_ns(len(short), c.rank, c.candidates), default=None)


def cost_ns(items: int, rank: int, candidates: int) -> float:
    """Nanoseconds that an answer takes on one core, roughly."""
    return items * rank * ITEM_DIMENSION_NS + candidates * CANDIDATE_NS


def _places(rows: Any, maps: Maps, short: Floats, states: Floats, ranks: list[int]) -> Ints:
    """Where the best items stand by the short vectors: ``[ranks, states * TOP]``."""
    scores = np.concatenate([states @ np.asarray(rows[part], np.float32).T for part in _blocks(len(rows))], 1)
    top = np.stack([best(row, TOP) for row in scores])
    queries = states @ maps.states
    places = []
    for rank in ranks:
        coarse = queries[:, :rank] @ short[:, :rank].T
        of_top = np.take_along_axis(coarse, top, 1)
        # What is no number counts as better, so that such vectors find nothing.
        places.append([(~(row <= s)).sum() for row, best_ones in zip(coarse, of_top, strict=True) for s in best_ones])
    return np.array(places, np.int64)


def _blocks(items: int) -> Iterator[slice]:
    return (slice(at, min(at + BLOCK, items)) for at in range(0, items, BLOCK))


def _steps(states: Floats) -> range:
    return range(0, len(states), STATES)
