"""`Recommender`: titles in, ranked titles out. `Recommender.load(path).recommend(history=[...], k=10)`."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import ForkError, MissingPackageError, UsageError, install_line
from delrec_lite.runtime.answer import Clock, Evaluated, Ranking, Recommendation, basis_of, read_of
from delrec_lite.runtime.arguments import Title, Titles, index_rows, lists_in, values_in
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.coarse import catalogue_scores
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.factory import AUTO, open_engine
from delrec_lite.runtime.item_vectors import ItemVectors
from delrec_lite.runtime.manifest import INSIDE
from delrec_lite.runtime.matching import Match, Matcher
from delrec_lite.runtime.new_items import NewItems
from delrec_lite.runtime.prepared import Evaluator, Prepared, finished
from delrec_lite.runtime.prompting.encoder import Entry
from delrec_lite.runtime.resolving import OnUnknown, Resolved, key_of, resolve, resolve_one
from delrec_lite.runtime.selection import Selection, Selector
from delrec_lite.runtime.words.reading import Words, one_for_each

if TYPE_CHECKING:
    from delrec_lite.runtime.retriever import Retriever


class Recommender:
    """Answers requests from a bundle; use it as a context manager, or ``close`` it.

    Attributes:
        availability: Which items can be recommended now, and how that is changed.
        columns: The item columns that ``where`` can name.
        selector: Chooses the items of an answer out of scores.
        words: Reads the words of requests.
        vectors: Of items, by which diversity measures how alike they are.

    Args:
        bundle: Opened.
        engine: Evaluates the bundle's model.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self._engine, self._process = engine, os.getpid()
        items = bundle.items
        self._matcher = Matcher(items.ids, items.titles, items.popularity)
        self._new_items = NewItems(bundle, engine)
        self.vectors = ItemVectors(engine, self._new_items, len(items.ids))
        self.selector = Selector(bundle, self.vectors, self._matcher)
        self.words = Words(bundle)
        self.availability, self.columns = self.selector.availability, self.selector.columns
        self._evaluator = Evaluator(bundle, engine, self._new_items, self.selector)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        threads: int | None = None,
        verify: bool = True,
        engine: str = AUTO,
        quant: str | None = None,
        fused: bool | None = None,
        exact: bool = False,
    ) -> "Recommender":
        """Open and verify a bundle and load its model.

        Args:
            path: The bundle's folder, or ``hf://ORG/NAME[@REVISION]`` of the Hugging Face Hub.
            threads: Default: the cores allowed.
            verify: Check the files' hashes.
            engine: Name of an engine, see ``open_engine``; default: the first that reads the bundle and is installed.
            quant: Quantisation of the model, in a bundle that holds several; default: its first.
            fused: Mix its scores with those of the teacher in the bundle, by the weight that validation users chose;
                None: as the model was trained (``finetune.teacher_inside``).
            exact: Score every item with every request, also where the bundle has an item index.

        Raises:
            BundleError: Missing, foreign, incomplete or changed.
            FetchError: One of the Hub cannot be fetched.
            MissingPackageError: The engine's package is not installed; for the teacher it is onnxruntime.
            UsageError: The bundle holds no model of this quantisation, or no teacher to mix with; no such engine.
        """
        bundle = Bundle.open(path, verify, quant)
        if not (bundle.manifest["model"].get(INSIDE, False) if fused is None else fused):
            return cls(bundle, open_engine(bundle, engine, threads, exact))
        from delrec_lite.runtime.engines.hybrid import open_with_teacher

        return cls(bundle, open_with_teacher(bundle, engine, threads, exact))

    @property
    def engine(self) -> Engine:
        """Evaluates the bundle's model.

        Raises:
            ForkError: This process was forked from the one that loaded it.
        """
        if os.getpid() != self._process:
            raise ForkError(self._process)
        return self._engine

    def recommend(
        self,
        history: Titles,
        k: int = 10,
        candidates: Titles | None = None,
        allow_new: bool = False,
        exclude_history: bool | None = None,
        exclude: Titles | None = None,
        session: str | None = None,
        on_unknown: OnUnknown = "skip",
        where: str | None = None,
        diversity: float = 0.0,
        popularity_discount: float = 0.0,
        words: str | None = None,
        words_weight: float | None = None,
    ) -> Recommendation:
        """Rank what comes next; the most popular first where nothing of the history is known.

        Titles, candidates and exclusions are lists or other series: arrays, tuples, Series, generators. A number is an
        item id.

        Args:
            history: Titles (or ``id:<item id>``), oldest first; empty for a user without a history.
            k: How many to return; all where there are fewer.
            candidates: Rank only these; default: the whole catalogue, where the bundle ranks it. Their order counts
                only where the prompt lists them.
            allow_new: Use an unknown title as a new item, represented by its words.
            exclude_history: Leave out the items of the history. Default: out of the catalogue, unless repeats count
                in the data set; never out of the candidates.
            exclude: More titles to leave out, of the candidates too.
            session: Names a user whose history stays in the model's cache, so that the next request evaluates only
                the new items; the answer is the same.
            on_unknown: ``skip`` what the catalogue lacks, and name it in the answer; or ``refuse`` the request.
            where: Recommend only items that this filter over item columns keeps, see ``runtime.filters``.
            diversity: 0 to 1: how much less an item counts that is like one before it, see ``selection.diverse``.
            popularity_discount: From 0: how much less a popular item counts, see ``selection.discounted``.
            words: What is wanted, such as "space adventure, not for children", see ``Words.read``.
            words_weight: Of the words, 0 to 100; default: the one that validation users chose.

        Raises:
            UsageError: An argument of another kind, no candidates in a list of them, no list of them for a bundle that
                ranks candidates alone, no valid filter; with ``refuse``: an unknown title.
        """
        asked = (history, k, candidates, allow_new, exclude_history, exclude, session, on_unknown)
        prepared = self.prepare(*asked, where, diversity, popularity_discount, words, words_weight)
        return self.finish(prepared, self.evaluate([prepared])[0])

    def prepare(
        self,
        history: Titles,
        k: int = 10,
        candidates: Titles | None = None,
        allow_new: bool = False,
        exclude_history: bool | None = None,
        exclude: Titles | None = None,
        session: str | None = None,
        on_unknown: OnUnknown = "skip",
        where: str | None = None,
        diversity: float = 0.0,
        popularity_discount: float = 0.0,
        words: str | None = None,
        words_weight: float | None = None,
    ) -> Prepared:
        """Read a request, without the model; arguments and errors as in ``recommend``."""
        selection = Selection.of(k, where, diversity, popularity_discount)
        clock = Clock()
        read = self._resolve(history, "history", allow_new, on_unknown)
        among = None if candidates is None else self._resolve(candidates, "candidates", allow_new, on_unknown)
        if among is not None and not among.items and not among.skipped:
            raise UsageError("there are no candidates", "give at least one, or no list, to rank the whole catalogue")
        excluded = self._resolve([] if exclude is None else exclude, "exclude", allow_new, on_unknown)
        left_out = {key_of(item) for item in excluded.items}
        if exclude_history or (exclude_history is None and among is None and not self.bundle.repeats):
            left_out |= {key_of(item) for item in read.items}
        self.selector.mask(where)  # an error in the filter comes before the model is asked
        pool, unavailable = (None, []) if among is None else self.selector.pool(among, left_out, where)
        worded = self.words.read(words, words_weight, alone=not read.items)
        clock.lap("match")
        session = None if session is None else str(session)
        prepared = Prepared(selection, read, among, excluded, left_out, pool, unavailable, worded, session, clock)
        self._evaluator.encode_request(prepared)
        return prepared

    def evaluate(self, prepared: Sequence[Prepared]) -> list[Evaluated]:
        """Scores for requests that were prepared; those of the whole catalogue by one call of the engine.

        A request's scores are those it gets alone, up to the rounding of another batch shape.
        """
        _ = self.engine  # refused in a forked process
        return self._evaluator.evaluate(prepared)

    def finish(self, prepared: Prepared, evaluated: Evaluated) -> Recommendation:
        """Rank what a request asks for."""
        return finished(prepared, evaluated, self.selector, self.words, self.bundle.label)

    def recommend_batch(
        self,
        histories: Iterable[Titles],
        k: int = 10,
        exclude_history: bool | None = None,
        on_unknown: OnUnknown = "skip",
        candidates: Iterable[Titles | None] | None = None,
        exclude: Iterable[Titles | None] | None = None,
        allow_new: bool = False,
        where: str | None = None,
        diversity: float = 0.0,
        popularity_discount: float = 0.0,
        words: Iterable[str | None] | None = None,
        words_weight: float | None = None,
    ) -> list[Ranking]:
        """The first ``k`` for many histories of titles at once; arguments as in ``recommend``.

        ``candidates`` and ``exclude`` hold one list, or None, for each history, ``words`` one text, or None. With
        candidates or new items the histories are evaluated one after another.

        Raises:
            UsageError: As in ``recommend``; or not as many lists as histories.
        """
        selection = Selection.of(k, where, diversity, popularity_discount)
        given = values_in(histories, "histories", ordered=True)
        among, out = (lists_in(v, w, len(given)) for v, w in ((candidates, "candidates"), (exclude, "exclude")))
        texts = one_for_each(words, len(given))
        if allow_new or any(pool is not None for pool in among):
            options: dict[str, Any] = {**vars(selection), "exclude_history": exclude_history, "on_unknown": on_unknown}
            options |= {"allow_new": allow_new, "words_weight": words_weight}
            answers = [
                self.recommend(history, candidates=pool, exclude=left_out, words=text, **options)
                for history, pool, left_out, text in zip(given, among, out, texts, strict=True)
            ]
            return [Ranking(answer.items, answer.skipped, answer.basis, answer.words) for answer in answers]
        read = [self._resolve(history, f"histories[{n}]", False, on_unknown) for n, history in enumerate(given)]
        left_out = [self._resolve(v or [], f"exclude[{n}]", False, on_unknown) for n, v in enumerate(out)]
        self.selector.mask(where)
        exclude_history = not self.bundle.repeats if exclude_history is None else exclude_history
        asked = [self.words.read(text, words_weight, not r.items) for text, r in zip(texts, read, strict=True)]
        known = [n for n, resolved in enumerate(read) if resolved.items]
        scores = dict(zip(known, catalogue_scores(self.engine, [read[n].indices for n in known]), strict=True))
        rankings = []
        for n, (resolved, excluded) in enumerate(zip(read, left_out, strict=True)):
            plain, refinement = scores.get(n) or (self.selector.popular(), None)
            indices = [*excluded.indices, *(resolved.indices if exclude_history else [])]
            ranked = self.selector.rank_catalogue(self.words.mixed(asked[n], plain), indices, selection, refinement)
            skipped = [*resolved.skipped, *excluded.skipped]
            rankings.append(Ranking(ranked, skipped, basis_of(resolved.items, asked[n]), read_of(asked[n])))
        return rankings

    def scores(self, histories: Iterable[Any]) -> Floats:
        """Scores of the whole catalogue after each history.

        Args:
            histories: Item indices, oldest first, none empty; the newest ``max_history`` are read.

        Returns:
            float32 ``[histories, items]``.

        Raises:
            UsageError: An empty history, an index outside the catalogue, or a bundle that ranks candidates alone.
        """
        return self.engine.scores(index_rows(histories, "histories", len(self.bundle.items.ids)))

    def score_candidates(self, histories: Iterable[Any], candidates: Any) -> Floats:
        """Scores of each history's candidates.

        Args:
            histories: As in ``scores``.
            candidates: Item indices, ``[histories, m]``.

        Returns:
            float32 ``[histories, m]``.

        Raises:
            UsageError: As in ``scores``.
        """
        items = len(self.bundle.items.ids)
        read, among = index_rows(histories, "histories", items), index_rows(candidates, "candidates", items)
        if len(read) != len(among) or len(set(map(len, among))) > 1:
            raise UsageError("candidates and histories do not fit", "give as many candidates for each of the histories")
        if self.bundle.prompt.format.ranks_catalogue:
            return np.take_along_axis(self.engine.scores(read), np.array(among, np.int64), 1)
        return np.stack([self.engine.score_candidates(h, listed)[0] for h, listed in zip(read, among, strict=True)])

    def entries(
        self, history: Titles, allow_new: bool = False, on_unknown: OnUnknown = "skip"
    ) -> tuple[Resolved, list[Entry]]:
        """The items that a history names, and the engine's entries for them.

        Raises:
            UsageError: As in ``recommend``.
        """
        resolved = self._resolve(history, "history", allow_new, on_unknown)
        return resolved, self._evaluator.encode(resolved.items)

    @cached_property
    def teacher(self) -> "Retriever | None":
        """The conventional recommender that was distilled; None where the bundle has none or onnxruntime is missing."""
        from delrec_lite.runtime.retriever import open_retriever

        return open_retriever(self.bundle)

    def teacher_ranking(
        self, history: Titles, k: int = 10, on_unknown: OnUnknown = "skip", where: str | None = None
    ) -> Ranking:
        """The teacher's recommendations: the first ``k`` of the trained catalogue that are available.

        Without the history, unless the data set says that repeats count; ``where`` as in ``recommend``.

        Raises:
            UsageError: There is no teacher, no trained item in the history; with ``refuse``: an unknown title.
        """
        selection = Selection.of(k, where)
        if self.teacher is None:
            raise UsageError(
                "this bundle has no teacher that can be run here",
                f"export it with `export.retriever: true`; to run it: {install_line('onnxruntime')}",
            )
        read = self._resolve(history, "history", False, on_unknown)
        scores = self.teacher.scores([read.indices])[0][: self.bundle.trained]
        left_out = [] if self.bundle.repeats else [item for item in read.indices if item < self.bundle.trained]
        return Ranking(self.selector.rank_catalogue(scores, left_out, selection), read.skipped)

    def find(self, title: Title) -> Match:
        """The item of the catalogue that a title names.

        Raises:
            UsageError: There is none; names the nearest.
        """
        return resolve_one(self._matcher, title, "title")

    def look_up(self, title: str) -> Match | None:
        """The item of the catalogue that a title names; None if there is none."""
        return self._matcher.look_up(title)

    def nearest(self, title: str, k: int = 3) -> list[str]:
        """Titles of the catalogue that look most like a title."""
        return self._matcher.nearest(title, k)

    def search(self, words: str, k: int = 10) -> list[Match]:
        """Titles of the catalogue that look most like some words; the most popular ones where there are no words."""
        return self._matcher.search(words, k)

    def tokens(self, history: Titles, candidates: Titles | None = None) -> int:
        """Tokens that a request takes behind the prompt's prefix; 0 where nothing of the history is known.

        Raises:
            UsageError: As in ``recommend``.
        """
        among = self._resolve([] if candidates is None else candidates, "candidates", False, "skip")
        _, entries = self.entries(history)
        in_prompt = [] if self.bundle.prompt.format.ranks_catalogue else self._evaluator.encode(among.items)
        return self.engine.count_tokens(entries, in_prompt)[1] if entries else 0

    def share_availability(self, other: "Recommender") -> None:
        """Recommend what another recommender of the same bundle does, also when that is changed."""
        self.selector.availability = self.availability = other.availability

    def close(self) -> None:
        """Free the model; nothing in a forked process, which did not load it."""
        if os.getpid() == self._process:
            self._engine.close()

    def preload(self) -> None:
        """Read now what some requests read later; then the bundle's files may change or vanish.

        Raises:
            BundleError: The teacher, the tokenizer or the vectors of new items cannot be read.
        """
        _ = self.teacher
        self.look_up("a new title")  # prepares the search among the titles
        self.words.preload()
        with suppress(MissingPackageError):  # the package gguf: the requests that need it say so
            self.new_item("a new title")
            self.vectors.preload()

    def __enter__(self) -> "Recommender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resolve(self, values: Any, where: str, allow_new: bool, on_unknown: OnUnknown) -> Resolved:
        return resolve(self._matcher, values, where, allow_new, on_unknown)

    def new_entry(self, title: str, text: str = "") -> Entry:
        """The engine's entry for an item that was not trained: its vector, or its tokens where histories are titles."""
        return self._new_items.entry(title, text)

    def new_item(self, title: str, text: str = "") -> tuple[Floats, Floats]:
        """Input and output vector of an item that was not trained: float32 ``[hidden]`` each.

        Args:
            title: Of the item.
            text: Its side text, such as its category; read by a model with item text alone.
        """
        return self._new_items.vectors(title, text)
