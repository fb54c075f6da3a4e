"""`Recommender`: titles in, ranked titles out. `Recommender.load(path).recommend(history=[...], k=10)`."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.factory import AUTO, open_engine
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
        matched: What each title of history and candidates was taken for; a new title is its own.
        milliseconds: Time by phase: ``match``, ``encode``, ``prefill``, ``sort``.
        tokens_computed: Tokens that the model evaluated for this answer.
        tokens_avoided: Tokens of the prompt that were in its cache: instruction, soft prompt, a session's history.
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
        engine: Evaluates it.
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
        fused: bool = False,
    ) -> "Recommender":
        """Open and verify a bundle and load its model.

        Args:
            path: The bundle's folder.
            threads: Default: the cores allowed.
            verify: Check the files' hashes.
            engine: Name of an engine, see ``open_engine``; default: the first that reads the bundle and is installed.
            quant: Quantisation of the model, in a bundle that holds several; default: its first.
            fused: Mix its scores with those of the teacher in the bundle, by the weight that validation users chose.

        Raises:
            BundleError: Missing, foreign, incomplete or changed.
            MissingPackageError: The engine's package is not installed; for the teacher it is onnxruntime.
            UsageError: The bundle holds no model of this quantisation, or no teacher to mix with; no such engine.
        """
        bundle = Bundle.open(path, verify, quant)
        opened = open_engine(bundle, engine, threads)
        if fused:
            from delrec_lite.runtime.engines.hybrid import fused as with_teacher

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
            k: How many to return; more than there are gives all.
            candidates: Rank only these; default: the whole catalogue, where the bundle ranks it.
            allow_new: Take an unknown title as a new item that lives on its words.
            exclude_history: Leave out what the history holds (candidates are never left out).
            exclude: More titles to leave out of the catalogue.
            session: Names a user whose history is kept in the model's cache, so that the next request pays for new
                items alone; the answer is the same.

        Raises:
            UsageError: An empty history, ``k`` below 1, an unknown title, nothing to rank, or no candidates for a
                bundle that ranks those alone.
        """
        _check_k(k)
        if candidates is not None and not candidates:
            raise UsageError("there are no candidates", "give at least one, or none at all for the whole catalogue")
        if not history:
            raise UsageError("the history is empty", "give at least one title")
        clock = _Clock()
        matched: list[Match] = []
        had = [self._entry(title, allow_new, matched) for title in history]
        wanted = None
        if candidates is not None:  # the same item named twice is ranked once
            wanted = list(dict.fromkeys(self._entry(title, allow_new, matched) for title in candidates))
        left_out = [self._matcher.find(title).item for title in exclude]
        clock.lap("match")
        entries: list[Entry] = [e if isinstance(e, int) else self.new_entry(e) for e in had]
        chosen: list[Entry] = []
        if wanted is not None and not self.bundle.prompt.format.ranks_catalogue:
            chosen = [e if isinstance(e, int) else self.new_entry(e) for e in wanted]
        clock.lap("encode")
        _, read = self.engine.count_tokens(entries, chosen)
        state = np.empty(0, np.float32)
        if chosen:
            scores, computed = self.engine.score_candidates(entries, chosen, session)
        elif wanted is not None and not all(isinstance(item, int) for item in wanted):
            evaluation = self.engine.evaluate([entries], session)
            scores, state, computed = evaluation.scores[0], evaluation.states[0], evaluation.tokens
        elif session is None:
            scores, computed = self.engine.scores([entries])[0], read
        else:
            scores, computed = self.engine.score_session(session, entries)
        clock.lap("prefill")
        if wanted is None:
            left = np.ones(len(scores), dtype=bool)
            left[left_out] = False
            if exclude_history:
                left[[e for e in had if isinstance(e, int)]] = False
            pool = np.flatnonzero(left)
            values = scores[pool]
            names = None
        else:
            names = [self._named(e) for e in wanted]
            values = scores if chosen else self._candidate_scores(scores, state, wanted)
            pool = np.arange(len(values))
        answer = self._ranked(values, pool, names, k)
        clock.lap("sort")
        avoided = max(0, len(self.bundle.prompt.prefix) + read - computed)  # an engine may keep nothing at all
        return Recommendation(answer, matched, clock.milliseconds, computed, avoided)

    def recommend_batch(self, histories: Sequence[Sequence[str]], k: int = 10) -> list[list[Ranked]]:
        """The first ``k`` of the catalogue for many histories of titles at once, each without its own history.

        Raises:
            UsageError: As in ``recommend``.
        """
        _check_k(k)
        items = [[self._matcher.find(title).item for title in history] for history in histories]
        answers = []
        for row, had in zip(self.scores([np.array(i) for i in items]), items, strict=True):
            left = np.ones(len(row), dtype=bool)
            left[had] = False
            pool = np.flatnonzero(left)
            answers.append(self._ranked(row[pool], pool, None, k))
        return answers

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
        asked = [([int(i) for i in h], c.tolist()) for h, c in zip(histories, candidates, strict=True)]
        return np.stack([self.engine.score_candidates(history, chosen)[0] for history, chosen in asked])

    def entries(self, history: Sequence[str], allow_new: bool = False) -> tuple[list[Match], list[Entry]]:
        """What each title was taken for, and what the engine is given for it.

        Raises:
            UsageError: An unknown title.
        """
        matched: list[Match] = []
        had = [self._entry(title, allow_new, matched) for title in history]
        return matched, [e if isinstance(e, int) else self.new_entry(e) for e in had]

    @cached_property
    def teacher(self) -> "Retriever | None":
        """The conventional recommender that was distilled; None where the bundle has none or onnxruntime is missing."""
        from delrec_lite.runtime.retriever import Retriever

        if not Retriever.held(self.bundle):
            return None
        try:
            return Retriever(self.bundle, threads=1)  # its layers are too small for more
        except MissingPackageError:
            return None

    def teacher_ranking(self, history: Sequence[str], k: int = 10) -> list[Ranked]:
        """What the teacher would recommend: the first ``k`` of the catalogue without the history, which it knows alone.

        Raises:
            UsageError: There is no teacher, an empty or wholly new history, or an unknown title.
        """
        _check_k(k)
        if self.teacher is None:
            raise UsageError(
                "this bundle's teacher cannot be asked",
                f"export it with `export.retriever: true`; here: {install_line('onnxruntime')}",
            )
        had = [self._matcher.find(title).item for title in history]
        scores = self.teacher.scores([had])[0]
        pool = np.setdiff1d(np.arange(self.bundle.trained), had)
        return self._ranked(scores[pool], pool, None, k)

    def find(self, title: str) -> Match:
        """The item of the catalogue that a title names.

        Raises:
            UsageError: There is none; names the nearest.
        """
        return self._matcher.find(title)

    def search(self, words: str, k: int = 10) -> list[Match]:
        """Titles of the catalogue that look most like some words; the most popular for none at all."""
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

    def _entry(self, title: str, allow_new: bool, matched: list[Match]) -> int | str:
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

    def _named(self, entry: int | str) -> tuple[str, str]:
        items = self.bundle.items
        return (items.ids[entry], items.titles[entry]) if isinstance(entry, int) else ("", entry)

    def _candidate_scores(self, scores: Floats, state: Floats, wanted: list[int | str]) -> Floats:
        """Scores of candidates out of the catalogue's; ``state`` scores those outside it."""
        values = [scores[e] if isinstance(e, int) else float(self.new_item(e)[1] @ state) for e in wanted]
        return np.array(values, np.float32)

    def _ranked(self, values: Floats, pool: Any, names: list[tuple[str, str]] | None, k: int) -> list[Ranked]:
        if len(values) == 0:
            raise UsageError("the history holds the whole catalogue", "rank it all with exclude_history=False")
        order = np.argsort(-values, kind="stable")[:k]
        shifted = np.exp(values - values.max())
        total = float(shifted.sum())
        items = self.bundle.items
        out = []
        for rank, n in enumerate(order, 1):
            item_id, title = names[n] if names else (items.ids[pool[n]], items.titles[pool[n]])
            out.append(Ranked(rank, item_id, title, float(values[n]), float(shifted[n]) / total))
        return out

    @cached_property
    def _tokenizer(self) -> Any:
        path = self.bundle.folder / "tokenizer.json"
        try:
            return open_tokenizer(path)
        except Exception as error:  # the package raises bare Exception
            raise BundleError(f"{path} does not read: {error}", "export the run again") from error

    def _title_tokens(self, title: str) -> list[int]:
        words = self.bundle.prompt.title_prefix + title
        tokens: list[int] = self._tokenizer.encode(words, add_special_tokens=False).ids
        return tokens

    def new_entry(self, title: str) -> Entry:
        """What the engine is given of an item that was not trained: its vector, or its words where words are read."""
        prompt_format = self.bundle.prompt.format
        if prompt_format.history_format.titles:
            return tuple(self._title_tokens(title)[: prompt_format.title_tokens])
        return self.new_item(title)[0]

    def new_item(self, title: str) -> tuple[Floats, Floats]:
        """What is read of an item that was not trained, and what scores its state: float32 ``[hidden]`` each."""
        vector = self.engine.token_vector(self._title_tokens(title))  # the mean row: what an untrained item is
        prompt, map_ = self.bundle.prompt, self.bundle.new_items
        output = vector * np.float32(prompt.scale) if map_ is None else vector @ map_[:-1] + map_[-1]
        return vector * np.float32(prompt.input_norm / np.linalg.norm(vector)), output


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}", "ask for at least one item")


class _Clock:
    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.milliseconds[phase] = (now - self._last) * 1e3
        self._last = now
