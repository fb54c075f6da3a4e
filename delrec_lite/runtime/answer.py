"""The answer to a request: ranked items, what was found for each title, and what was skipped."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite.data.frames import FrameKind, frame_of_rows
from delrec_lite.data.types import Floats, Ints
from delrec_lite.evaluation.best import best
from delrec_lite.runtime.engines.states import Refinement
from delrec_lite.runtime.matching import Match
from delrec_lite.runtime.resolving import Item, Skipped
from delrec_lite.runtime.words.reading import Worded, WordsRead

# What ranked: the model; where nothing of a history is known, words, or else how often each item was chosen.
MODEL, WORDS, POPULARITY = "model", "words", "popularity"
# Columns of an answer as a frame, with the names of RecTools.
FRAME = {"rank": "int32", "item_id": "string", "title": "string", "score": "float", "probability": "double"}


@dataclass(frozen=True)
class Ranked:
    """One recommended item.

    Attributes:
        rank: 1 for the best; with diversity the order is not that of the scores.
        id: The data set's own id; empty for an item outside the catalogue.
        title: As the catalogue has it.
        score: Higher is better; comparable within one answer. Less the popularity discount, where there is one.
        probability: Softmax of the scores over everything that was ranked.
    """

    rank: int
    id: str
    title: str
    score: float
    probability: float


class Ranking(list[Ranked]):
    """The ranked items of one history, best first; empty where nothing is left to rank.

    Attributes:
        skipped: What the catalogue lacks.
        basis: ``model``; where nothing of the history is known, ``words`` or ``popularity``.
        words: What was understood of the request's words; None where it has none.
    """

    def __init__(
        self,
        items: Iterable[Ranked],
        skipped: Sequence[Skipped] = (),
        basis: str = MODEL,
        words: WordsRead | None = None,
    ) -> None:
        super().__init__(items)
        self.skipped, self.basis, self.words = list(skipped), basis, words

    def to_frame(self, to: FrameKind | None = None) -> Any:
        """A row an item: ``rank``, ``item_id``, ``title``, ``score``, ``probability``; ``to`` as in ``frame_of``."""
        return frame_of_items(self, to)


@dataclass(frozen=True)
class Recommendation:
    """An answer.

    Attributes:
        items: Best first; empty where nothing is left to rank.
        matched: The item found for each title of history and candidates; a new title is matched to itself.
        skipped: What was left out of the request because the catalogue lacks it.
        basis: What ranked: ``model``; where nothing of the history is known, ``words`` or ``popularity``.
        milliseconds: Time by phase: ``match``, ``encode``, ``prefill``, ``sort``; with an item index also ``score``.
        tokens_computed: Tokens that the model evaluated for this answer.
        tokens_avoided: Tokens of the prompt that were cached: instruction, soft prompt, a session's history.
        words: What was understood of the request's words; None where it has none.
        bundle: Name and version of the bundle that ranked, ``Bundle.label``.
    """

    items: list[Ranked]
    matched: list[Match]
    skipped: list[Skipped]
    basis: str
    milliseconds: dict[str, float]
    tokens_computed: int
    tokens_avoided: int
    words: WordsRead | None = None
    bundle: str = ""

    def to_frame(self, to: FrameKind | None = None) -> Any:
        """The items as a frame, as ``Ranking.to_frame``."""
        return frame_of_items(self.items, to)


def frame_of_items(items: Sequence[Ranked], to: FrameKind | None = None) -> Any:
    """Ranked items as a frame of ``to``: ``pandas``, ``polars`` or ``arrow``; default: the first that is installed."""
    rows = [{"item_id": item.id, **asdict(item)} for item in items]
    return frame_of_rows(rows, FRAME, to)


@dataclass(frozen=True)
class Evaluated:
    """Scores of the catalogue or of the candidates, and the tokens that were computed and avoided for them.

    Attributes:
        scores: float32 ``[items]``.
        computed: Tokens.
        avoided: Tokens.
        refinement: Where the scores are coarse: what makes the best of them exact.
    """

    scores: Floats
    computed: int
    avoided: int
    refinement: Refinement | None = None


def basis_of(history: Sequence[Item], worded: Worded | None) -> str:
    """What ranks: the model after a history, or else words that are known, or else popularity."""
    return MODEL if history else WORDS if worded and worded.asked else POPULARITY


def read_of(worded: Worded | None) -> WordsRead | None:
    """What was understood of a request's words; None where it has none."""
    return None if worded is None else worded.read


def rank(scores: Floats, name: Callable[[int], tuple[str, str]], k: int, chosen: Ints | None = None) -> list[Ranked]:
    """The ``k`` best of some scores; of equal ones the earlier come first.

    Args:
        scores: Of everything that is ranked, float32 ``[n]``.
        name: Id and title of the n-th.
        k: Most items to return.
        chosen: The places of the items to return, in their order, instead of the best.
    """
    if len(scores) == 0:
        return []
    order = best(scores, k) if chosen is None else chosen
    shifted = np.exp(scores - scores.max())
    total = float(shifted.sum())
    return [
        Ranked(place, *name(n), float(scores[n]), float(shifted[n]) / total)
        for place, n in enumerate(order.tolist(), 1)
    ]


class Clock:
    """Milliseconds of each phase of an answer, from one ``lap`` to the next."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def move(self, phase: str, to: str, milliseconds: float) -> None:
        """Count a part of an ended phase as a phase of its own."""
        self.milliseconds[phase] -= milliseconds
        self.milliseconds[to] = milliseconds

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.milliseconds[phase] = (now - self._last) * 1e3
        self._last = now
