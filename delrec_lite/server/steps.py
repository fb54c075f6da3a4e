"""Long requests as steps for the worker: a batch of histories, and an explanation."""

from collections.abc import Sequence

from delrec_lite.runtime.explain import explain_steps
from delrec_lite.runtime.recommender import Ranked, Recommender
from delrec_lite.server.schemas import BatchBody, ExplainBody
from delrec_lite.server.worker import Steps

# Histories that are evaluated before others get their turn: SmolLM2-135M takes 0.2 s for them on two cores.
STEP = 8


def batch_steps(recommender: Recommender, body: BatchBody) -> Steps:
    """Rank a batch, in its order; returns a list of ``Ranked`` for each history."""
    rankings: list[Sequence[Ranked]] = []
    count = len(body.histories)
    while len(rankings) < count:
        if rankings:
            yield count - len(rankings)
        start = len(rankings)
        rankings += _rank(recommender, body, start, min(start + STEP, count))
    return rankings


def _rank(recommender: Recommender, body: BatchBody, start: int, end: int) -> list[list[Ranked]]:
    """Rankings of some of a batch's histories; those with lists of their own are evaluated one by one."""
    histories = body.histories[start:end]
    if not body.candidates and not body.exclude:
        return recommender.recommend_batch(histories, body.k)
    candidates = body.candidates[start:end] if body.candidates else [None] * len(histories)
    exclude: Sequence[Sequence[str]] = body.exclude[start:end] if body.exclude else [[]] * len(histories)
    lists = zip(histories, candidates, exclude, strict=True)
    return [recommender.recommend(h, body.k, candidates=c, exclude=e).items for h, c, e in lists]


def explanation_steps(recommender: Recommender, body: ExplainBody) -> Steps:
    """Explain one item; returns an ``Explanation``."""
    return explain_steps(recommender, body.history, body.item, body.allow_new, STEP)
