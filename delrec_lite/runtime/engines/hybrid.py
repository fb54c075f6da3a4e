"""An engine that mixes the scores of the model and of the teacher in the same bundle."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, DelrecError, UsageError
from delrec_lite.evaluation.fusion import mix
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine, Evaluation
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.engines.groups import GroupEvaluation
from delrec_lite.runtime.engines.states import CoarseEvaluation
from delrec_lite.runtime.engines.wrapper import EngineWrapper
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.prompting.encoder import Entry
from delrec_lite.runtime.retriever import Retriever

# Key of the manifest's ``model``: the teacher's weight, chosen on validation users.
WEIGHT = "teacher_weight"


class HybridEngine(EngineWrapper):
    """An engine whose catalogue scores are mixed with the teacher's; all else is the engine's.

    The teacher knows only the trained items: it skips other items in a history, and a history without trained items
    keeps the engine's scores.

    Args:
        engine: Of the whole catalogue.
        teacher: Of the same bundle.
        weight: The teacher's, 0 to 1.
        trained: How many items the teacher knows; they are the first ones.
    """

    def __init__(self, engine: Engine, teacher: Retriever, weight: float, trained: int) -> None:
        super().__init__(engine)
        self._teacher, self._weight, self._trained = teacher, weight, trained

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        return self._mixed(super().scores(requests), requests)

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        scores, computed = super().score_session(session, request)
        return self._mixed(scores[None], [request])[0], computed

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``; the states are the engine's."""
        scores, states, computed = super().evaluate(requests, session)
        return Evaluation(self._mixed(scores, requests), states, computed)

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``; the states are the engine's."""
        group = super().evaluate_group(requests, sessions, states)
        return group._replace(scores=self._mixed(group.scores, requests))

    def evaluate_coarse(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> CoarseEvaluation:
        """See ``CoarseEngine``; what the coarse scores lack counts as much as the engine's scores do."""
        coarse = super().evaluate_coarse(requests, sessions)
        refinements = [
            replace(refinement, missing=partial(self._missing, refinement.missing)) if history else refinement
            for refinement, history in zip(coarse.refinements, self._histories(requests), strict=True)
        ]
        return coarse._replace(scores=self._mixed(coarse.scores, requests), refinements=refinements)

    def _missing(self, missing: Callable[[Ints], Floats], items: Ints) -> Floats:
        share = np.where(items < self._trained, np.float32(1 - self._weight), np.float32(1))
        of_mixed: Floats = missing(items) * share
        return of_mixed

    def _histories(self, requests: Sequence[Sequence[Entry]]) -> list[list[int]]:
        """The trained items of each request."""
        return [
            [int(e) for e in request if isinstance(e, int | np.integer) and e < self._trained] for request in requests
        ]

    def _mixed(self, scores: Floats, requests: Sequence[Sequence[Entry]]) -> Floats:
        histories = self._histories(requests)
        rows = [row for row, history in enumerate(histories) if history]
        if not rows:
            return scores
        teacher_scores = self._teacher.scores([histories[row] for row in rows])[:, : self._trained]
        mixed = scores.copy()
        mixed[rows] = mix(scores[rows], teacher_scores, self._weight)
        return mixed


def open_with_teacher(bundle: Bundle, name: str, threads: int | None, exact: bool = True) -> Engine:
    """``open_engine`` and ``with_teacher``; nothing stays open after an error of either."""
    engine = open_engine(bundle, name, threads, exact)
    try:
        return with_teacher(engine, bundle)
    except DelrecError:
        engine.close()
        raise


def with_teacher(engine: Engine, bundle: Bundle) -> Engine:
    """The engine mixed with the bundle's teacher.

    Raises:
        UsageError: See ``teacher_weight``.
        BundleError: The teacher or its weight cannot be read.
        MissingPackageError: onnxruntime is not installed.
    """
    weight = teacher_weight(bundle)
    return HybridEngine(engine, Retriever(bundle, threads=1), weight, bundle.trained)


def teacher_weight(bundle: Bundle) -> float:
    """The weight of the bundle's teacher, 0 to 1.

    Raises:
        UsageError: The bundle has no teacher, or was exported before teachers had a weight.
        BundleError: It is no such number.
    """
    weight = bundle.manifest["model"].get(WEIGHT)
    if not Retriever.is_in(bundle) or weight is None:
        raise UsageError(
            f"{bundle.folder} holds no teacher to mix with", "export the run again with `export.retriever: true`"
        )
    if not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise BundleError(f"{bundle.folder}: {WEIGHT} is {weight!r}, not a number from 0 to 1", REMEDY)
    return float(weight)
