"""`Recommender`: titles in, ranked titles out. `Recommender.load(path).recommend(history=[...], k=10)`."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite.data.types import Floats, Ints, described
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.factory import AUTO, open_engine
from delrec_lite.runtime.manifest import INSIDE
from delrec_lite.runtime.matching import Match, Matcher
from delrec_lite.runtime.prompting.encoder import Entry

if TYPE_CHECKING:
    from delrec_lite.runtime.retriever import Retriever


@dataclass(frozen=True)
class Ranked:
    """One recommended item.

    Attributes:
        rank: 1 for the best.
        id: The data set's own id; empty for an item outside the catalogue.
        title: As the catalogue has it.
        score: Higher is better; comparable within one answer.
        probability: Softmax of the scores over everything that was ranked.
    """

    rank: int
    id: str
    title: str
    score: float
    probability: float


@dataclass(frozen=True)
class Recommendation:
    """An answer.

    Attributes:
        items: Best first.
        matched: The item found for each title of history and candidates; a new title is matched to itself.
        milliseconds: Time by phase: ``match``, ``encode``, ``prefill``, ``sort``.
        tokens_computed: Tokens that the model evaluated for this answer.
        tokens_avoided: Tokens of the prompt that were cached: instruction, soft prompt, a session's history.
    """

    items: list[Ranked]
    matched: list[Match]
    milliseconds: dict[str, float]
    tokens_computed: int
    tokens_avoided: int


class Recommender:
    """Answers requests from a bundle; use it as a context manager, or ``close`` it.

    Args:
        bundle: Opened.
        engine: Evaluates the bundle's model.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        items = bundle.items
        self._matcher = Matcher(items.ids, items.titles, items.popularity)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        threads: int | None = None,
        verify: bool = True,
        engine: str = AUTO,
        quant: str | None = None,
        fused: bool | None = None,
    ) -> "Recommender":
        """Open and verify a bundle and load its model.

        Args:
            path: The bundle's folder.
            threads: Default: the cores allowed.
            verify: Check the files' hashes.
            engine: Name of an engine, see ``open_engine``; default: the first that reads the bundle and is installed.
            quant: Quantisation of the model, in a bundle that holds several; default: its first.
            fused: Mix its scores with those of the teacher in the bundle, by the weight that validation users chose;
                None: as the model was trained (``finetune.teacher_inside``).

        Raises:
            BundleError: Missing, foreign, incomplete or changed.
            MissingPackageError: The engine's package is not installed; for the teacher it is onnxruntime.
            UsageError: The bundle holds no model of this quantisation, or no teacher to mix with; no such engine.
        """
        bundle = Bundle.open(path, verify, quant)
        opened = open_engine(bundle, engine, threads)
        if bundle.manifest["model"].get(INSIDE, False) if fused is None else fused:
            from delrec_lite.runtime.engines.hybrid import with_teacher

            try:
                opened = with_teacher(opened, bundle)
            except DelrecError:
                opened.close()
                raise
        return cls(bundle, opened)

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        candidates: Sequence[str] | None = None,
        allow_new: bool = False,
        exclude_history: bool = True,
        exclude: Sequence[str] = (),
        session: str | None = None,
    ) -> Recommendation:
        """Rank what comes next.

        Args:
            history: Titles (or ``id:<item id>``), oldest first.
            k: How many to return; all where there are fewer.
            candidates: Rank only these; default: the whole catalogue, where the bundle ranks it.
            allow_new: Use an unknown title as a new item, represented by its words.
            exclude_history: Leave out the items of the history (candidates are never left out).
            exclude: More titles to leave out of the catalogue.
            session: Names a user whose history stays in the model's cache, so that the next request evaluates only
                the new items; the answer is the same.

        Raises:
            UsageError: An empty history, ``k`` below 1, an unknown title, nothing to rank, or no candidates for a
                bundle that ranks those alone.
        """
        _check_k(k)
        if candidates is not None and not candidates:
            raise UsageError("there are no candidates", "give at least one, or no list, to rank the whole catalogue")
        if not history:
            raise UsageError("the history is empty", "give at least one title")
        clock = _Clock()
        matched: list[Match] = []
        resolved = [self._resolve(title, allow_new, matched) for title in history]
        pool: list[int | str] | None = None
        if candidates is not None:  # the same item named twice is ranked once
            pool = list(dict.fromkeys(self._resolve(title, allow_new, matched) for title in candidates))
        excluded = [self._matcher.find(title).item for title in exclude]
        clock.lap("match")
        entries = self._encode(resolved)
        in_prompt: list[Entry] = []  # the candidates, where the prompt asks about them
        if pool is not None and not self.bundle.prompt.format.ranks_catalogue:
            in_prompt = self._encode(pool)
        clock.lap("encode")
        _, tokens = self.engine.count_tokens(entries, in_prompt)
        state = np.empty(0, np.float32)
        if in_prompt:
            scores, computed = self.engine.score_candidates(entries, in_prompt, session)
        elif pool is not None and not all(isinstance(item, int) for item in pool):
            evaluation = self.engine.evaluate([entries], session)
            scores, state, computed = evaluation.scores[0], evaluation.states[0], evaluation.tokens
        elif session is None:
            scores, computed = self.engine.scores([entries])[0], tokens
        else:
            scores, computed = self.engine.score_session(session, entries)
        clock.lap("prefill")
        if pool is None:
            included = np.ones(len(scores), dtype=bool)
            included[excluded] = False
            if exclude_history:
                included[[item for item in resolved if isinstance(item, int)]] = False
            items = np.flatnonzero(included)
            ranked = self._rank_catalogue(scores, items, k)
        else:
            values = scores if in_prompt else self._candidate_scores(scores, state, pool)
            ranked = self._rank(values, [self._name(item) for item in pool].__getitem__, k)
        clock.lap("sort")
        avoided = max(0, len(self.bundle.prompt.prefix) + tokens - computed)  # an engine may cache nothing
        return Recommendation(ranked, matched, clock.milliseconds, computed, avoided)

    def recommend_batch(self, histories: Sequence[Sequence[str]], k: int = 10) -> list[list[Ranked]]:
        """The first ``k`` of the catalogue for many histories of titles at once, each without its own history.

        Raises:
            UsageError: As in ``recommend``.
        """
        _check_k(k)
        indices = [[self._matcher.find(title).item for title in history] for history in histories]
        rankings = []
        for scores, history in zip(self.scores(indices), indices, strict=True):
            included = np.ones(len(scores), dtype=bool)
            included[history] = False
            rankings.append(self._rank_catalogue(scores, np.flatnonzero(included), k))
        return rankings

    def scores(self, histories: Sequence[Any]) -> Floats:
        """Scores of the whole catalogue after each history.

        Args:
            histories: Item indices, oldest first, none empty; the newest ``max_history`` are read.

        Returns:
            float32 ``[histories, items]``.

        Raises:
            UsageError: An empty history, an index outside the catalogue, or a bundle that ranks candidates alone.
        """
        return self.engine.scores([[int(i) for i in history] for history in histories])

    def score_candidates(self, histories: Sequence[Any], candidates: Ints) -> Floats:
        """Scores of each history's candidates.

        Args:
            histories: As in ``scores``.
            candidates: Item indices, int64 ``[histories, m]``.

        Returns:
            float32 ``[histories, m]``.

        Raises:
            UsageError: As in ``scores``.
        """
        if self.bundle.prompt.format.ranks_catalogue:
            return np.take_along_axis(self.scores(histories), candidates, 1)
        requests = [([int(i) for i in h], c.tolist()) for h, c in zip(histories, candidates, strict=True)]
        return np.stack([self.engine.score_candidates(history, among)[0] for history, among in requests])

    def entries(self, history: Sequence[str], allow_new: bool = False) -> tuple[list[Match], list[Entry]]:
        """The item found for each title, and the engine's entry for it.

        Raises:
            UsageError: An unknown title.
        """
        matched: list[Match] = []
        return matched, self._encode([self._resolve(title, allow_new, matched) for title in history])

    @cached_property
    def teacher(self) -> "Retriever | None":
        """The conventional recommender that was distilled; None where the bundle has none or onnxruntime is missing."""
        from delrec_lite.runtime.retriever import Retriever

        if not Retriever.is_in(self.bundle):
            return None
        try:
            return Retriever(self.bundle, threads=1)  # its layers are too small for more
        except MissingPackageError:
            return None

    def teacher_ranking(self, history: Sequence[str], k: int = 10) -> list[Ranked]:
        """The teacher's recommendations: the first ``k`` of the trained catalogue without the history.

        Raises:
            UsageError: There is no teacher, no trained item in the history, or an unknown title.
        """
        _check_k(k)
        if self.teacher is None:
            raise UsageError(
                "this bundle has no teacher that can be run here",
                f"export it with `export.retriever: true`; to run it: {install_line('onnxruntime')}",
            )
        indices = [self._matcher.find(title).item for title in history]
        scores = self.teacher.scores([indices])[0]
        return self._rank_catalogue(scores, np.setdiff1d(np.arange(self.bundle.trained), indices), k)

    def find(self, title: str) -> Match:
        """The item of the catalogue that a title names.

        Raises:
            UsageError: There is none; names the nearest.
        """
        return self._matcher.find(title)

    def search(self, words: str, k: int = 10) -> list[Match]:
        """Titles of the catalogue that look most like some words; the most popular ones where there are no words."""
        if not words.strip():
            popular = np.argsort(-np.asarray(self.bundle.items.popularity), kind="stable")[:k]
            return [self._matcher.find(self.bundle.items.titles[i]) for i in popular]
        return [self._matcher.find(title) for title in self._matcher.nearest(words, k)]

    def tokens(self, history: Sequence[str], candidates: Sequence[str] | None = None) -> int:
        """Tokens that a request takes behind the prompt's prefix.

        Raises:
            UsageError: As in ``recommend``.
        """
        among = [] if self.bundle.prompt.format.ranks_catalogue else self.entries(candidates or [])[1]
        return self.engine.count_tokens(self.entries(history)[1], among)[1]

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def __enter__(self) -> "Recommender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resolve(self, title: str, allow_new: bool, matched: list[Match]) -> int | str:
        """An item's index, or the words of a new item."""
        try:
            match = self._matcher.find(title)
        except UsageError:
            if not allow_new or not title.strip() or title.startswith("id:"):
                raise
            matched.append(Match(title, -1, title))
            return title.strip()
        matched.append(match)
        return match.item

    def _encode(self, items: Sequence[int | str]) -> list[Entry]:
        """The engine's entries of items, which are indices or the words of new items."""
        return [item if isinstance(item, int) else self.new_entry(item) for item in items]

    def _name(self, item: int | str) -> tuple[str, str]:
        """Id and title; a new item has no id."""
        items = self.bundle.items
        return (items.ids[item], items.titles[item]) if isinstance(item, int) else ("", item)

    def _candidate_scores(self, scores: Floats, state: Floats, candidates: list[int | str]) -> Floats:
        """Scores of candidates out of the catalogue's; ``state`` scores those outside it."""
        values = [scores[c] if isinstance(c, int) else float(self.new_item(c)[1] @ state) for c in candidates]
        return np.array(values, np.float32)

    def _rank_catalogue(self, scores: Floats, items: Ints, k: int) -> list[Ranked]:
        """Rank some items of the catalogue; ``scores`` are those of all."""
        return self._rank(scores[items], lambda n: self._name(int(items[n])), k)

    def _rank(self, values: Floats, name: Callable[[int], tuple[str, str]], k: int) -> list[Ranked]:
        """The ``k`` best of some scores; ``name`` gives id and title of the n-th."""
        if len(values) == 0:
            raise UsageError("the history holds the whole catalogue", "rank it all with exclude_history=False")
        order = np.argsort(-values, kind="stable")[:k]
        shifted = np.exp(values - values.max())
        total = float(shifted.sum())
        return [
            Ranked(rank, *name(n), float(values[n]), float(shifted[n]) / total)
            for rank, n in enumerate(order.tolist(), 1)
        ]

    @cached_property
    def _tokenizer(self) -> Any:
        path = self.bundle.folder / "tokenizer.json"
        try:
            return open_tokenizer(path)
        except Exception as error:  # the package raises bare Exception
            raise BundleError(f"{path} cannot be read: {error}", "export the run again") from error

    def _title_tokens(self, title: str) -> list[int]:
        words = self.bundle.prompt.title_prefix + title
        tokens: list[int] = self._tokenizer.encode(words, add_special_tokens=False).ids
        return tokens

    def new_entry(self, title: str, text: str = "") -> Entry:
        """The engine's entry for an item that was not trained: its vector, or its tokens where histories are titles."""
        prompt_format = self.bundle.prompt.format
        if prompt_format.history_format.titles:
            return tuple(self._title_tokens(title)[: prompt_format.title_tokens])
        return self.new_item(title, text)[0]

    def new_item(self, title: str, text: str = "") -> tuple[Floats, Floats]:
        """Input and output vector of an item that was not trained: float32 ``[hidden]`` each.

        Args:
            title: Of the item.
            text: Its side text, such as its category; read by a model with item text alone.
        """
        mean_row = self.engine.token_vector(self._title_tokens(title))
        prompt, linear_map = self.bundle.prompt, self.bundle.new_items
        if linear_map is None:
            output = mean_row * np.float32(prompt.scale)
        else:
            output = mean_row @ linear_map[:-1] + linear_map[-1]
        vectors = mean_row * np.float32(prompt.input_norm / np.linalg.norm(mean_row)), output
        if (maps := self.bundle.item_text) is None:
            return vectors
        text_row = self.engine.token_vector(self._title_tokens(described(title, text))) if text else mean_row
        first, second = (v + text_row @ m[:-1] + m[-1] for v, m in zip(vectors, maps, strict=True))
        return first, second


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}", "set k to 1 or more")


class _Clock:
    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.milliseconds[phase] = (now - self._last) * 1e3
        self._last = now
