"""Requests as steps for the worker: titles are looked up in groups, then histories are evaluated in groups."""

from collections.abc import Callable, Iterable, Sequence

from delrec_lite.runtime.answer import Ranking
from delrec_lite.runtime.explain import explain_steps
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.schemas import BatchBody, ExplainBody, RecommendBody, TeacherBody
from delrec_lite.server.worker import Steps

# Histories that are evaluated before others get their turn: SmolLM2-135M takes 0.2 s for them on two cores.
STEP = 8
# Titles that are looked up in a step: an unknown one takes up to a millisecond in a catalogue of 1,349.
TITLES = 64


def titles_of(body: RecommendBody | TeacherBody | ExplainBody) -> list[str]:
    """All titles that a request for one history names."""
    titles = list(body.history)
    if isinstance(body, RecommendBody):
        titles += [*(body.candidates or []), *body.exclude]
    return titles


def size_of(body: RecommendBody | TeacherBody | ExplainBody) -> int:
    """About how many steps a request for one history takes; 1 for most."""
    return 1 + len(titles_of(body)) // TITLES


def recommend_steps(recommender: Recommender, body: RecommendBody) -> Steps:
    """Rank what comes after one history, which is evaluated with others that wait; returns a ``Recommendation``."""
    yield from _look_up(recommender, titles_of(body), 1)
    prepared = recommender.prepare(**body.model_dump())
    evaluated = yield prepared
    return recommender.finish(prepared, evaluated)


def teacher_steps(recommender: Recommender, body: TeacherBody) -> Steps:
    """The teacher's ranking after one history; returns a ``Ranking``."""
    yield from _look_up(recommender, titles_of(body), 1)
    return recommender.teacher_ranking(body.history, body.k, body.on_unknown, body.where)


def explanation_steps(recommender: Recommender, body: ExplainBody) -> Steps:
    """Explain one item; returns an ``Explanation``."""
    yield from _look_up(recommender, titles_of(body), 1 + len(body.history))
    return (
        yield from explain_steps(
            recommender, body.history, body.item, body.allow_new, body.on_unknown, STEP, body.words
        )
    )


def batch_steps(recommender: Recommender, body: BatchBody) -> Steps:
    """Rank a batch, in its order; returns a ``Ranking`` for each history."""
    rankings: list[Ranking] = []
    count = len(body.histories)
    while len(rankings) < count:
        if rankings:
            yield count - len(rankings)
        start = len(rankings)
        rows, titles = _group(body, start)
        yield from _look_up(recommender, titles, count - start)
        rankings += _rank(recommender, body, rows)
    return rankings


def with_label(work: Callable[[Recommender], Steps]) -> Callable[[Recommender], Steps]:
    """Work whose answer comes with the label of the bundle that gave it, which may be replaced meanwhile."""

    def labelled(recommender: Recommender) -> Steps:
        answer = yield from work(recommender)
        return answer, recommender.bundle.label

    return labelled


def _group(body: BatchBody, start: int) -> tuple[range, list[str]]:
    """The histories of a batch that are evaluated next, and their titles; fewer where they have many titles."""
    titles: list[str] = []
    for row in range(start, len(body.histories)):
        lists = [body.histories[row], *(entries[row] or [] for entries in (body.candidates, body.exclude) if entries)]
        titles += [title for entry in lists for title in entry]
        if row + 1 - start == STEP or len(titles) >= 8 * TITLES:
            return range(start, row + 1), titles
    return range(start, len(body.histories)), titles


def _look_up(recommender: Recommender, titles: Sequence[str], remaining: int) -> Steps:
    """Look titles up, which the matcher remembers, and stop after every group of them."""
    for start in range(0, len(titles), TITLES):
        if start:
            yield remaining + (len(titles) - start) // TITLES
        for title in titles[start : start + TITLES]:
            recommender.look_up(title)


def _rank(recommender: Recommender, body: BatchBody, rows: Iterable[int]) -> list[Ranking]:
    """Rankings of some of a batch's histories."""
    request = body.model_dump()
    for name in ("histories", "candidates", "exclude", "words"):
        request[name] = [request[name][row] for row in rows] if request[name] else None
    return recommender.recommend_batch(**request)
