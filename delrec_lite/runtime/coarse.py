"""Scores of the whole catalogue that may be coarse, and the best items by them with their exact scores."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Bools, Floats, Ints
from delrec_lite.evaluation.best import best
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.states import Refinement, coarse_engine

# So many candidates for each item that is wanted, where that is more than the index was measured to need for ten.
SHARE = 10


def catalogue_scores(engine: Engine, histories: Sequence[Sequence[int]]) -> list[tuple[Floats, Refinement | None]]:
    """Scores of the whole catalogue after each history, coarse ones where the engine has an item index.

    Args:
        engine: Over a bundle that ranks the whole catalogue.
        histories: Item indices, oldest first, none empty.

    Returns:
        For each history float32 ``[items]``, and what makes the best of them exact; None: all are.

    Raises:
        UsageError: As ``Engine.scores``.
    """
    if not histories:
        return []
    coarse = coarse_engine(engine)
    if coarse is None:
        return [(scores, None) for scores in engine.scores(histories)]
    evaluation = coarse.evaluate_coarse(histories, [None] * len(histories))
    return list(zip(evaluation.scores, evaluation.refinements, strict=True))


def refined(scores: Floats, included: Bools, k: int, refinement: Refinement) -> tuple[Floats, Ints]:
    """Make the best of some coarse scores exact.

    The candidates are chosen among the included items, so that a filter leaves as many as without coarse scores; where
    it leaves few, all are exact.

    Args:
        scores: Coarse, float32 ``[items]``.
        included: Which items may be recommended, bool ``[items]``.
        k: How many are wanted.
        refinement: Of these scores.

    Returns:
        The scores, minus infinity for items that are not included, and the candidates, best first.
    """
    scores = np.where(included, scores, np.float32(-np.inf))
    left = int(np.count_nonzero(included))
    number = min(max(refinement.candidates, SHARE * k), left)
    if not number:
        return scores, np.empty(0, np.int64)
    among = np.flatnonzero(included) if left < len(scores) // 2 else None
    places = best(scores if among is None else scores[among], number)
    candidates = np.sort(places if among is None else among[places])
    scores[candidates] += refinement.missing(candidates)
    return scores, candidates[best(scores[candidates], number)]
