"""Long requests as steps for the worker: a batch of histories, and an explanation."""

from collections.abc import Iterator
from dataclasses import replace

from delrec_lite.runtime.answer import Ranking
from delrec_lite.runtime.explain import explain_steps
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.schemas import BatchBody, ExplainBody
from delrec_lite.server.worker import Steps

# Histories that are evaluated before others get their turn: SmolLM2-135M takes 0.2 s for them on two cores.
STEP = 8


def batch_steps(recommender: Recommender, body: BatchBody) -> Steps:
    """Rank a batch, in its order; returns a ``Ranking`` for each history."""
    rankings: list[Ranking] = []
    count = len(body.histories)
    while len(rankings) < count:
        if rankings:
            yield count - len(rankings)
        start = len(rankings)
        rankings += _rank(recommender, body, start, min(start + STEP, count))
    return rankings


def _rank(recommender: Recommender, body: BatchBody, start: int, end: int) -> Iterator[Ranking]:
    """Rankings of some of a batch's histories, one by one where each has lists of its own."""
    if not (body.candidates or body.exclude or body.allow_new):
        histories = body.histories[start:end]
        for ranking in recommender.recommend_batch(histories, body.k, body.exclude_history, body.on_unknown):
            yield Ranking(ranking, [replace(entry, where="history") for entry in ranking.skipped], ranking.basis)
        return
    for n in range(start, end):
        answer = recommender.recommend(
            body.histories[n],
            body.k,
            candidates=body.candidates[n] if body.candidates else None,
            allow_new=body.allow_new,
            exclude_history=body.exclude_history,
            exclude=body.exclude[n] if body.exclude else None,
            on_unknown=body.on_unknown,
        )
        yield Ranking(answer.items, answer.skipped, answer.basis)


def explanation_steps(recommender: Recommender, body: ExplainBody) -> Steps:
    """Explain one item; returns an ``Explanation``."""
    return explain_steps(recommender, body.history, body.item, body.allow_new, body.on_unknown, STEP)
