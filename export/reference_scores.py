"""The trained model's scores for some validation users, with which every exported file is compared."""

from dataclasses import dataclass

from delrec_lite.data.types import Floats, Ints, subsample
from delrec_lite.export.request import ExportRequest
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.questions import score_candidates
from delrec_lite.runtime.recommender import Recommender

PARITY_USERS = 50


@dataclass(frozen=True)
class ReferenceScores:
    """Questions and the trained model's scores.

    Attributes:
        histories: Item indices, oldest first.
        candidates: int64 ``[users, m]`` if the prompt format ranks candidates only; None: the whole catalogue.
        scores: float32 ``[users, items]``, or of the candidates ``[users, m]``.
    """

    histories: tuple[Ints, ...]
    candidates: Ints | None
    scores: Floats

    def scores_of(self, recommender: Recommender) -> Floats:
        """The scores of a bundle's model for the same questions, same shape."""
        if self.candidates is None:
            return recommender.scores(self.histories)
        return recommender.score_candidates(self.histories, self.candidates)


def score_reference(request: ExportRequest) -> ReferenceScores:
    """Compute the trained model's scores, before its weights are merged."""
    model, prompts, length = request.model, request.prompts, request.max_history
    valid = request.dataset.valid()
    users = subsample(len(valid), PARITY_USERS)
    histories = valid.take(users).histories
    if prompts.format.ranks_catalogue:
        return ReferenceScores(histories, None, score_all(model, prompts, histories, length))
    candidates = request.candidates["valid"].take(users).items
    return ReferenceScores(histories, candidates, score_candidates(model, prompts, histories, candidates, length))
