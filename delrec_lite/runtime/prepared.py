"""A request between its titles and its ranking, and the evaluation of one or of several together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.runtime.answer import Clock, Evaluated, Recommendation, basis_of, read_of
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.groups import evaluate_group
from delrec_lite.runtime.engines.states import CoarseEngine, Refinement, coarse_engine
from delrec_lite.runtime.new_items import NewItems
from delrec_lite.runtime.prompting.encoder import Entry
from delrec_lite.runtime.resolving import Item, Resolved, Skipped
from delrec_lite.runtime.selection import Selection, Selector
from delrec_lite.runtime.words.reading import Worded, Words


@dataclass
class Prepared:
    """What was read of a request's titles.

    Attributes:
        selection: Which items become the answer, and how many.
        read: Its history.
        among: Its candidates; None: the whole catalogue.
        excluded: What it never wants.
        left_out: Keys of all that is not ranked.
        pool: The candidates that are ranked; None: the whole catalogue.
        unavailable: Candidates that cannot be recommended now.
        worded: What was read of its words; None: it has none.
        session: Whose cache the evaluation continues.
        clock: Began with the request.
        entries: The engine's, of the history; none: popularity ranks.
        in_prompt: The engine's, of the candidates, where the prompt asks about them.
        tokens: Of the request behind the prefix.
    """

    selection: Selection
    read: Resolved
    among: Resolved | None
    excluded: Resolved
    left_out: set[Item]
    pool: list[Item] | None
    unavailable: list[Skipped]
    worded: Worded | None
    session: str | None
    clock: Clock
    entries: list[Entry] = field(default_factory=list)
    in_prompt: list[Entry] = field(default_factory=list)
    tokens: int = 0

    @property
    def resolved(self) -> list[Resolved]:
        """All its lists."""
        return [self.read, self.excluded] if self.among is None else [self.read, self.among, self.excluded]

    @property
    def by_model(self) -> bool:
        """Whether the model ranks; else popularity does, or nothing is left to rank."""
        return bool(self.entries) and self.pool != []

    @property
    def needs_state(self) -> bool:
        """Whether an item outside the catalogue is among the candidates: a hidden state scores it."""
        return not self.in_prompt and not all(isinstance(item, int) for item in self.pool or [])


class Evaluator:
    """Scores what prepared requests rank.

    Args:
        bundle: Opened.
        engine: Over the same bundle.
        new_items: Vectors of items outside the catalogue.
        selector: Scores by popularity.
    """

    def __init__(self, bundle: Bundle, engine: Engine, new_items: NewItems, selector: Selector) -> None:
        self._bundle, self._engine, self._new_items, self._selector = bundle, engine, new_items, selector

    def encode(self, items: Sequence[Item]) -> list[Entry]:
        """The engine's entries of items, which are indices or the words of new items."""
        return [item if isinstance(item, int) else self._new_items.entry(item) for item in items]

    def encode_request(self, request: Prepared) -> None:
        """Fill in what the engine reads of a request.

        Raises:
            UsageError: See ``Engine.count_tokens``.
        """
        if request.read.items and request.pool != []:
            request.entries = self.encode(request.read.items)
            if request.pool is not None and not self._bundle.prompt.format.ranks_catalogue:
                request.in_prompt = self.encode(request.pool)
            request.tokens = self._engine.count_tokens(request.entries, request.in_prompt)[1]
        request.clock.lap("encode")

    def evaluate(self, requests: Sequence[Prepared]) -> list[Evaluated]:
        """Scores of the catalogue, or of each request's pool; one evaluation for as many requests as possible."""
        if (engine := coarse_engine(self._engine)) is not None:
            return self._evaluate_coarse(engine, requests)
        together = [r for r in requests if r.by_model and not r.in_prompt and not r.needs_state]
        if len(together) < 2:
            return [self._alone(request) for request in requests]
        group = evaluate_group(self._engine, [r.entries for r in together], [r.session for r in together])
        results = iter(zip(group.scores, group.tokens, strict=True))
        shared = {id(request) for request in together}
        return [self._result(r, *next(results)) if id(r) in shared else self._alone(r) for r in requests]

    def _evaluate_coarse(self, engine: CoarseEngine, requests: Sequence[Prepared]) -> list[Evaluated]:
        by_model = [request for request in requests if request.by_model]
        results: dict[int, Evaluated] = {}
        if by_model:
            coarse = engine.evaluate_coarse([r.entries for r in by_model], [r.session for r in by_model])
            for n, request in enumerate(by_model):
                refinement, tokens = coarse.refinements[n], coarse.tokens[n]
                results[id(request)] = self._result(request, coarse.scores[n], tokens, coarse.states[n], refinement)
                request.clock.move("prefill", "score", coarse.milliseconds)
        return [results[id(request)] if id(request) in results else self._alone(request) for request in requests]

    def _alone(self, request: Prepared) -> Evaluated:
        pool, engine = request.pool, self._engine
        if not request.by_model:
            scores = self._selector.popular(pool)
            request.clock.lap("prefill")
            return Evaluated(scores, 0, 0)
        if request.in_prompt:
            return self._result(request, *engine.score_candidates(request.entries, request.in_prompt, request.session))
        if request.needs_state:
            evaluation = engine.evaluate([request.entries], request.session)
            return self._result(request, evaluation.scores[0], evaluation.tokens, evaluation.states[0])
        if request.session is None:
            return self._result(request, engine.scores([request.entries])[0], request.tokens)
        return self._result(request, *engine.score_session(request.session, request.entries))

    def _result(
        self,
        request: Prepared,
        scores: Floats,
        computed: int,
        state: Floats | None = None,
        refinement: Refinement | None = None,
    ) -> Evaluated:
        """The scores of what the request ranks, out of the engine's; those of candidates are exact."""
        request.clock.lap("prefill")
        if request.pool is not None and not request.in_prompt:
            state = np.empty(0, np.float32) if state is None else state
            new = {c: float(self._new_items.vectors(c)[1] @ state) for c in request.pool if isinstance(c, str)}
            if refinement is not None:
                known = np.array([c for c in request.pool if isinstance(c, int)], np.int64)
                scores[known] += refinement.missing(known)
                refinement = None
            scores = np.array([scores[c] if isinstance(c, int) else new[c] for c in request.pool], np.float32)
        avoided = max(0, len(self._bundle.prompt.prefix) + request.tokens - computed)  # an engine may cache nothing
        return Evaluated(scores, computed, avoided, refinement)


def finished(prepared: Prepared, evaluated: Evaluated, selector: Selector, words: Words, label: str) -> Recommendation:
    """Rank what a request asks for.

    Args:
        prepared: The request.
        evaluated: Its scores.
        selector: Chooses the items of the answer.
        words: Of the same bundle: mixes the request's words in.
        label: Of the bundle, ``Bundle.label``.
    """
    pool, clock, among = prepared.pool, prepared.clock, prepared.among
    scores = words.mixed(prepared.worded, evaluated.scores, pool)
    if pool is None:
        left_out = [item for item in prepared.left_out if isinstance(item, int)]
        ranked = selector.rank_catalogue(scores, left_out, prepared.selection, evaluated.refinement)
    else:
        ranked = selector.rank_pool(scores, pool, prepared.selection)
    clock.lap("sort")
    return Recommendation(
        ranked,
        [*prepared.read.matched, *(among.matched if among else [])],
        [*(skipped for part in prepared.resolved for skipped in part.skipped), *prepared.unavailable],
        basis_of(prepared.read.items, prepared.worded),
        clock.milliseconds,
        evaluated.computed,
        evaluated.avoided,
        read_of(prepared.worded),
        label,
    )
