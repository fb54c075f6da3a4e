"""Which items are ranked, and which become the answer: filters, availability, popularity discount, diversity."""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from delrec_lite.data.types import Bools, Floats, Ints
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.best import best
from delrec_lite.runtime.answer import Ranked, rank
from delrec_lite.runtime.arguments import check_k
from delrec_lite.runtime.availability import Availability
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.coarse import refined
from delrec_lite.runtime.engines.states import Refinement
from delrec_lite.runtime.filters import Filters
from delrec_lite.runtime.item_columns import ItemColumns
from delrec_lite.runtime.item_vectors import ItemVectors
from delrec_lite.runtime.matching import Matcher
from delrec_lite.runtime.resolving import Item, Resolved, Skipped, key_of

# The best so many items are those that diversity chooses from, or so many for each item of the answer.
POOL, POOL_SHARE = 100, 4
UNAVAILABLE = "it is not available now"


@dataclass(frozen=True)
class Selection:
    """How an answer's items are chosen out of the scores. The defaults choose the k best of everything.

    Attributes:
        k: How many.
        where: A filter over item columns, see ``runtime.filters``; None: all items.
        diversity: 0 to 1: how much less an item counts that is like one before it, by maximal marginal relevance.
        popularity_discount: From 0: how much less a popular item counts.
    """

    k: int = 10
    where: str | None = None
    diversity: float = 0.0
    popularity_discount: float = 0.0

    @classmethod
    def of(cls, k: Any, where: Any = None, diversity: Any = 0.0, popularity_discount: Any = 0.0) -> "Selection":
        """Of a caller's arguments.

        Raises:
            UsageError: k is no whole number from 1, diversity no number from 0 to 1, or the discount none from 0.
        """
        share = _number(diversity, "diversity", 1.0)
        return cls(check_k(k), where, share, _number(popularity_discount, "popularity_discount", math.inf))


def _number(value: Any, name: str, highest: float) -> float:
    span = "from 0 to 1" if highest == 1 else "from 0"
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (0 <= number <= highest and math.isfinite(number)):
        raise UsageError(f"{name} is {str(value)[:60]}", f"set {name} to a number {span}; 0 turns it off")
    return number


class Selector:
    """Chooses the items of an answer.

    Attributes:
        columns: Of the catalogue.
        availability: Which items can be recommended now.

    Args:
        bundle: Opened.
        vectors: Of its items.
        matcher: Of its items.
    """

    def __init__(self, bundle: Bundle, vectors: ItemVectors, matcher: Matcher) -> None:
        self._bundle, self._vectors = bundle, vectors
        self.columns = ItemColumns(bundle.columns, len(bundle.items.ids))
        self.availability = Availability(bundle.items, self.columns, matcher)
        self._filters = Filters(self.columns)

    def mask(self, where: str | None) -> Bools:
        """What is available and passes a filter: bool ``[items + 1]``, the last for any item outside the catalogue.

        Raises:
            UsageError: See ``Filters.mask``.
        """
        available = self.availability.mask
        return available if where is None else available & self._filters.mask(where)

    def pool(self, given: Resolved, left_out: Set[Item], where: str | None) -> tuple[list[Item], list[Skipped]]:
        """The candidates that are ranked, and those that are not because they are not available.

        Args:
            given: The candidates.
            left_out: Keys of items to leave out.
            where: A filter.

        Returns:
            Each candidate once, in the catalogue's order, unless the prompt lists them; and what is not available.

        Raises:
            UsageError: See ``Filters.mask``.
        """
        available = self.availability.mask
        mask = available if where is None else available & self._filters.mask(where)
        skipped = [
            Skipped(match.given, "candidates", UNAVAILABLE)
            for item, match in zip(given.items, given.matched, strict=True)
            if not available[_row(item)]
        ]
        by_key = {key_of(item): item for item in reversed(given.items)}
        keys = dict.fromkeys(map(key_of, given.items))
        pool = [by_key[key] for key in keys if key not in left_out and mask[_row(by_key[key])]]
        if not self._bundle.prompt.format.candidates:
            pool.sort(key=lambda item: (isinstance(item, str), item))
        return pool, skipped

    def rank_catalogue(
        self,
        scores: Floats,
        left_out: Sequence[int],
        selection: Selection,
        refinement: Refinement | None = None,
    ) -> list[Ranked]:
        """Rank the catalogue, or as many of its first items as there are scores, without some of them.

        Args:
            scores: float32 ``[items]``.
            left_out: Items.
            selection: Which of the others, and how many.
            refinement: Where the scores are coarse: the best of those that may be recommended are made exact.

        Raises:
            UsageError: See ``Filters.mask``.
        """
        included = self.mask(selection.where)[: len(scores)].copy()
        included[list(left_out)] = False
        if refinement is not None:
            return self._rank_refined(scores, included, selection, refinement)
        items = np.flatnonzero(included)
        return self._ranked(scores[items], items, lambda n: int(items[n]), selection)

    def _rank_refined(
        self, scores: Floats, included: Bools, selection: Selection, refinement: Refinement
    ) -> list[Ranked]:
        """As ``_ranked``, of the items that are included."""
        if selection.popularity_discount:
            scores = discounted(scores, self._log_counts[: len(scores)], selection.popularity_discount)
        wanted = max(POOL, POOL_SHARE * selection.k) if selection.diversity else selection.k
        scores, items = refined(scores, included, wanted, refinement)
        if not len(items):
            return []
        order = items[:wanted]
        if selection.diversity:
            units = self._vectors.units(order.tolist())
            order = order[diverse(scores[order], units, selection.k, selection.diversity)]
        return rank(scores, self.name, selection.k, order)

    def rank_pool(self, scores: Floats, pool: Sequence[Item], selection: Selection) -> list[Ranked]:
        """Rank candidates: scores float32 ``[candidates]``."""
        return self._ranked(scores, _rows(pool), pool.__getitem__, selection)

    def _ranked(self, scores: Floats, rows: Ints, item: Callable[[int], Item], selection: Selection) -> list[Ranked]:
        """The chosen ones of some items by their scores; ``rows`` are the items' places, ``item`` gives the n-th."""
        if selection.popularity_discount:
            scores = discounted(scores, self._log_counts[rows], selection.popularity_discount)
        order = None
        if selection.diversity and len(scores):
            pool = best(scores, max(POOL, POOL_SHARE * selection.k))
            units = self._vectors.units([item(n) for n in pool.tolist()])
            order = pool[diverse(scores[pool], units, selection.k, selection.diversity)]
        return rank(scores, lambda n: self.name(item(n)), selection.k, order)

    def popular(self, items: Sequence[Item] | None = None) -> Floats:
        """Scores by popularity, whose softmax over the catalogue is each item's share of all interactions.

        Args:
            items: Some items; None: the whole catalogue.

        Returns:
            ``ln(1 + n)`` for n interactions in the training part: float32 ``[items]``.
        """
        popular: Floats = self._log_counts[:-1] if items is None else self._log_counts[_rows(items)]
        return popular

    @cached_property
    def _log_counts(self) -> Floats:
        """``popular`` of the catalogue, and 0 for every item outside it: float32 ``[items + 1]``."""
        log_counts: Floats = np.log1p(np.asarray([*self._bundle.items.popularity, 0], np.float32))
        log_counts.setflags(write=False)
        return log_counts

    def name(self, item: Item) -> tuple[str, str]:
        """Id and title; a new item has no id."""
        items = self._bundle.items
        return (items.ids[item], items.titles[item]) if isinstance(item, int) else ("", item)


def _row(item: Item) -> int:
    """An item's place in a mask; that of every new item is the last."""
    return item if isinstance(item, int) else -1


def _rows(items: Sequence[Item]) -> Ints:
    """The places of several items: int64 ``[n]``."""
    return np.array([_row(item) for item in items], dtype=np.int64)


def discounted(scores: Floats, popular: Floats, discount: float) -> Floats:
    """Scores less a share of their items' popularity: ``s - discount * ln(1 + n)``.

    With scores that are log-probabilities up to a constant, 1 removes what popularity alone explains: the logit
    adjustment of Menon et al. (2021), "Long-tail learning via logit adjustment", with 1 added to the count ``n`` so
    that an item without interactions stays as it is.

    Args:
        scores: float32 ``[n]``.
        popular: ``ln(1 + n)`` for items with n interactions in the training part, float32 ``[n]``.
        discount: From 0.
    """
    adjusted: Floats = (scores - np.float32(discount) * popular).astype(np.float32)
    return adjusted


def diverse(scores: Floats, units: Floats, k: int, diversity: float) -> Any:
    """Choose k items one after another by maximal marginal relevance.

    Each next item is the one with the largest ``(1 - d) * relevance - d * similarity``, where relevance is the score,
    scaled so that the pool's best is 1 and its last 0, and similarity the largest cosine with an item chosen before:
    Carbonell and Goldstein (1998), "The use of MMR, diversity-based reranking for reordering documents and producing
    summaries", with ``lambda = 1 - d``. The first item is always the one with the best score.

    Args:
        scores: Of the pool, best first, float32 ``[n]``.
        units: Unit vectors of its items, float32 ``[n, hidden]``.
        k: How many to choose.
        diversity: ``d``, 0 to 1.

    Returns:
        Places in the pool, in order: int64 ``[min(k, n)]``.
    """
    span = float(scores[0] - scores[-1])
    relevance = (scores - scores[-1]) / span if span > 0 else np.ones_like(scores)
    value = np.float32(1 - diversity) * relevance
    nearest = np.full(len(scores), -np.inf, np.float32)
    chosen = [0]
    while len(chosen) < min(k, len(scores)):
        nearest = np.maximum(nearest, units @ units[chosen[-1]])
        marginal = value - np.float32(diversity) * nearest
        marginal[chosen] = -np.inf
        chosen.append(int(marginal.argmax()))
    return np.array(chosen, dtype=np.int64)
