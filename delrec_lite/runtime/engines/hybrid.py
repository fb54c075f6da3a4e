"""The model and the teacher beside it in the bundle as one: for the price of the teacher, better than either."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.evaluation.fusion import mix
from delrec_lite.runtime.bundle import REMEDY, Bundle
from delrec_lite.runtime.engines.base import Engine, Evaluation
from delrec_lite.runtime.engines.wrapper import EngineWrapper
from delrec_lite.runtime.prompting.encoder import Entry
from delrec_lite.runtime.retriever import Retriever

# Of the manifest's ``model``: the teacher's share, as validation users chose it.
WEIGHT = "teacher_weight"


class HybridEngine(EngineWrapper):
    """An engine whose scores of the catalogue are mixed with the teacher's; whatever else is the engine's own.

    The teacher knows the trained items alone: it passes over others in a history, and where it knows nothing of one,
    the engine's scores stand as they are.

    Args:
        engine: Of the whole catalogue.
        teacher: Of the same bundle.
        weight: The teacher's, 0 to 1.
        trained: Items that the teacher knows, the first ones.
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

    def _mixed(self, own: Floats, requests: Sequence[Sequence[Entry]]) -> Floats:
        histories = [
            [int(e) for e in request if isinstance(e, int | np.integer) and e < self._trained] for request in requests
        ]
        asked = [n for n, history in enumerate(histories) if history]
        if not asked:
            return own
        others = self._teacher.scores([histories[n] for n in asked])[:, : self._trained]
        out = own.copy()
        out[asked] = mix(own[asked], others, self._weight)
        return out


def fused(engine: Engine, bundle: Bundle) -> Engine:
    """The engine mixed with the bundle's teacher.

    Raises:
        UsageError: The bundle has no teacher, or was exported before teachers had a weight.
        BundleError: What it has does not read.
        MissingPackageError: onnxruntime is not installed.
    """
    weight = bundle.manifest["model"].get(WEIGHT)
    if not Retriever.held(bundle) or weight is None:
        raise UsageError(
            f"{bundle.folder} holds no teacher to mix with", "export the run again with `export.retriever: true`"
        )
    if not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise BundleError(f"{bundle.folder}: {WEIGHT} is {weight!r}, not a share", REMEDY)
    return HybridEngine(engine, Retriever(bundle, threads=1), float(weight), bundle.trained)
