"""Why an item was recommended: each history item's contribution, by leaving it out (occlusion), in one batch."""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from delrec_lite.data.frames import FrameKind, frame_of_rows
from delrec_lite.data.types import Bools, Floats, Ints
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.best import best
from delrec_lite.evaluation.fusion import logsumexp
from delrec_lite.evaluation.significance import PairedTest, paired_test
from delrec_lite.runtime.arguments import Title, Titles
from delrec_lite.runtime.prompting.encoder import Entry
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.resolving import OnUnknown, Skipped
from delrec_lite.runtime.words.reading import WordsExplained

T = TypeVar("T")
# Yields how many histories are left to evaluate; the result is returned.
Steps = Generator[int, None, T]


@dataclass(frozen=True)
class Contribution:
    """One item of the history.

    Attributes:
        title: As the catalogue has it.
        weight: How much the recommended item's log-probability falls without it, nats; below 0: it rises.
        read: Whether the model read it; items that are too old for the prompt have weight 0.
    """

    title: str
    weight: float
    read: bool


@dataclass(frozen=True)
class Opinion:
    """The teacher's ranking after the same history.

    Attributes:
        kinds: Kinds of teacher, such as ``sasrec``; several were averaged.
        rank: Of the explained item, counted like ``Explanation.rank``.
        probability: Of the explained item over the whole catalogue.
        first: Title that the teacher ranks first.
        agrees: Whether the model ranks it first too.
        shared: Share of the model's first ten that are among the teacher's first ten.
    """

    kinds: tuple[str, ...]
    rank: int
    probability: float
    first: str
    agrees: bool
    shared: float


@dataclass(frozen=True)
class Explanation:
    """How an item's rank came about.

    Attributes:
        id: The data set's own id of the explained item.
        title: Its title.
        rank: Its rank among the items of the catalogue that are available, without the history; 0 if it is in the
            history or not available. Where repeats count in the data set, the history is ranked too.
        probability: Over the whole catalogue.
        contributions: One for each item of the history, in its order.
        teacher: None where the bundle has no teacher, onnxruntime is missing, or it knows no item of the history.
        skipped: Items of the history that the catalogue lacks.
        soft_words: For each vector of the soft prompt the nearest words, nearest first; the same for every request.
        milliseconds: Time taken.
        words: What the words of the request do; None where it has none.
    """

    id: str
    title: str
    rank: int
    probability: float
    contributions: list[Contribution]
    teacher: Opinion | None
    skipped: list[Skipped]
    soft_words: list[list[str]]
    milliseconds: float
    words: WordsExplained | None = None

    def to_frame(self, to: FrameKind | None = None) -> Any:
        """A row for each item of the history: ``title``, ``weight``, ``read``; ``to`` as in ``frame_of``."""
        columns = {"title": "string", "weight": "double", "read": "bool"}
        return frame_of_rows([asdict(part) for part in self.contributions], columns, to)


def explain(
    recommender: Recommender,
    history: Titles,
    item: Title | None = None,
    allow_new: bool = False,
    on_unknown: OnUnknown = "skip",
    words: str | None = None,
) -> Explanation:
    """Explain one item after a history, beside words, or by words alone; by default the first recommendation.

    Args:
        recommender: Loaded.
        history: Titles (or ``id:<item id>``), oldest first.
        item: A title of the catalogue.
        allow_new: Take an unknown title of the history as a new item.
        on_unknown: ``skip`` titles of the history that the catalogue lacks, and name them; or ``refuse`` the request.
        words: What is wanted, as in ``Recommender.recommend``.

    Raises:
        UsageError: Nothing of the history is known, or the item to explain is not; with ``refuse``: an unknown title.
    """
    return _last(explain_steps(recommender, history, item, allow_new, on_unknown, words=words))


def explain_steps(
    recommender: Recommender,
    history: Titles,
    item: Title | None,
    allow_new: bool,
    on_unknown: OnUnknown,
    at_once: int | None = None,
    words: str | None = None,
) -> Steps[Explanation]:
    """``explain`` in steps, for a server; each evaluates at most ``at_once`` histories (None: all).

    Raises:
        UsageError: See ``explain``.
    """
    start = time.perf_counter()
    resolved, entries = recommender.entries(history, allow_new, on_unknown)
    worded = recommender.words.read(words, alone=not entries)
    if not entries and worded is not None and worded.asked:
        plain, reduced = recommender.selector.popular(), np.empty((0, len(recommender.bundle.items.ids)), np.float32)
    elif not entries and resolved.skipped:
        raise UsageError(
            f"nothing of the history is in the catalogue, the first is {resolved.skipped[0].given!r}",
            "give at least one title of the catalogue, or --allow-new, allow_new",
        )
    elif not entries:
        raise UsageError("the history is empty", "give at least one title")
    else:
        plain, reduced = yield from _occlusion_steps(recommender, entries, at_once)
    scores = recommender.words.mixed(worded, plain)
    weights = _falls(scores, recommender.words.mixed(worded, reduced))
    matched = resolved.matched
    seen = resolved.indices
    unseen = recommender.availability.mask[: len(scores)].copy()
    if not recommender.bundle.repeats:
        unseen[seen] = False
    if item is not None:
        target = recommender.find(item).item
    elif unseen.any():
        target = int(np.where(unseen, scores, -np.inf).argmax())
    else:
        raise UsageError("the history holds the whole catalogue, as far as it is available", "name the item to explain")
    column = weights[:, target]
    unread = len(matched) - len(column)
    contributions = [
        Contribution(match.title, float(column[n - unread]) if n >= unread else 0.0, n >= unread)
        for n, match in enumerate(matched)
    ]
    rank = 1 + int((scores[unseen] > scores[target]).sum()) if unseen[target] else 0
    items = recommender.bundle.items
    probability = float(np.exp(_log_softmax(scores[None])[0, target]))
    opinion = _opinion(recommender, seen, unseen, scores, target) if seen else None
    about = None if worded is None else recommender.words.explained(worded, plain, target)
    soft_words = recommender.bundle.manifest["model"].get("soft_words", [])
    milliseconds = (time.perf_counter() - start) * 1e3
    return Explanation(
        items.ids[target],
        items.titles[target],
        rank,
        probability,
        contributions,
        opinion,
        resolved.skipped,
        soft_words,
        milliseconds,
        about,
    )


def _opinion(recommender: Recommender, seen: list[int], unseen: Bools, scores: Floats, target: int) -> Opinion | None:
    """Compare two rankings of the items that may be recommended: the model's and the teacher's."""
    teacher = recommender.teacher
    if teacher is None or min(seen) >= recommender.bundle.trained:
        return None
    teacher_scores = teacher.scores([seen])[0]
    probability = float(np.exp(_log_softmax(teacher_scores[None])[0, target]))
    rank = 1 + int((teacher_scores[unseen] > teacher_scores[target]).sum()) if unseen[target] else 0
    top, teacher_top = (best(np.where(unseen, values, -np.inf), 10) for values in (scores, teacher_scores))
    shared = len(np.intersect1d(top, teacher_top)) / len(top)
    first = recommender.bundle.items.titles[teacher_top[0]]
    return Opinion(teacher.kinds, rank, probability, first, bool(top[0] == teacher_top[0]), shared)


def occlude(recommender: Recommender, entries: Sequence[Entry]) -> tuple[Floats, Floats]:
    """Scores with the whole history, and how much every item's log-probability falls without each entry.

    Without its only entry a history is empty: then the fall is measured to equal probabilities.

    Args:
        recommender: Loaded.
        entries: The history; the newest entries are read.

    Returns:
        float32 ``[items]`` and float32 ``[entries read, items]``.
    """
    scores, reduced = _last(_occlusion_steps(recommender, entries, None))
    return scores, _falls(scores, reduced)


def _occlusion_steps(
    recommender: Recommender, entries: Sequence[Entry], at_once: int | None
) -> Steps[tuple[Floats, Floats]]:
    """Scores with the whole history, and without each entry that is read, in steps; without the only one all equal."""
    read = list(entries[-recommender.engine.count_tokens(entries)[0] :])
    reduced = [read[:n] + read[n + 1 :] for n in range(len(read))]
    histories = [read, *(history for history in reduced if history)]
    parts: list[Floats] = []
    for first in range(0, len(histories), at_once or len(histories)):
        if first:
            yield len(histories) - first
        parts.append(recommender.engine.scores(histories[first : first + (at_once or len(histories))]))
    scores = np.concatenate(parts)
    return scores[0], scores[1:] if len(read) > 1 else np.zeros_like(scores)


def _falls(scores: Floats, reduced: Floats) -> Floats:
    """How much every item's log-probability falls from ``scores`` to each row of ``reduced``."""
    falls: Floats = _log_softmax(scores[None]) - _log_softmax(reduced)
    return falls


@dataclass(frozen=True)
class Faithfulness:
    """Whether leaving out the entry with the largest contribution lowers the score more than leaving out another.

    Attributes:
        users: Whose first recommendation was explained.
        top: Mean fall of its log-probability without the entry that contributes most, nats.
        random: The same without an entry chosen at random.
        test: Paired, top against random.
    """

    users: int
    top: float
    random: float
    test: PairedTest


def faithfulness(recommender: Recommender, histories: Sequence[Ints], seed: int = 0) -> Faithfulness:
    """Leave out the entry with the largest contribution, and a random one, and score again.

    The contributions are computed from the batch; the falls are measured with new requests, one at a time.

    Raises:
        UsageError: No history has two items.
    """
    rng = np.random.default_rng(seed)
    tops: list[float] = []
    randoms: list[float] = []
    for history in histories:
        entries: list[Entry] = [int(i) for i in history]
        entries = entries[-recommender.engine.count_tokens(entries)[0] :]
        if len(entries) < 2:
            continue
        scores, weights = occlude(recommender, entries)
        target = int(scores.argmax())
        before = _log_softmax(scores[None])[0, target]
        for falls, n in ((tops, int(weights[:, target].argmax())), (randoms, int(rng.integers(len(entries))))):
            after = _log_softmax(recommender.engine.scores([entries[:n] + entries[n + 1 :]]))[0, target]
            falls.append(before - after)
    if not tops:
        raise UsageError("no history has two items", "give longer histories")
    top, random = np.array(tops, np.float32), np.array(randoms, np.float32)
    return Faithfulness(len(top), float(top.mean()), float(random.mean()), paired_test(top, random))


def _last(steps: Steps[T]) -> T:
    """Do all steps; the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def _log_softmax(scores: Floats) -> Floats:
    return scores - logsumexp(scores)
