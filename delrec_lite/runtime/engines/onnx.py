"""The ONNX Runtime engine: the prefix is a constant of the graph, so a request evaluates its history alone."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, DelrecError, UsageError
from delrec_lite.machine import threads_for
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Evaluation
from delrec_lite.runtime.engines.groups import GroupEvaluation
from delrec_lite.runtime.engines.sessions import CachedSession, Sessions, count_shared, keys_of
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.onnx_rows import read_item_rows
from delrec_lite.runtime.onnx_session import open_session, padded, run, shapes
from delrec_lite.runtime.prompting.encoder import Entry, PromptEncoder, Token

T = TypeVar("T")
# Rows of a group that are evaluated together, the session that the only one continues, and how much of it is there.
Piece = tuple[list[int], CachedSession | None, int]
# Requests evaluated together, and their items, padding counted.
BATCH = 16
BATCH_ITEMS = 512
# From so many groups per thread on, each thread evaluates requests of its own, because two threads on one request wait
# for each other in every layer. 64 users, int8, 2 cores: 13 ms a user instead of 19; the second session takes 130 MB.
GROUPS_PER_THREAD = 4
# Users whose last history stays in memory. A token of SmolLM2-135M takes 46 kB, so 16 histories of 50 take 57 MB.
SESSIONS = 16


class OnnxEngine:
    """See ``Engine``; the graph is described in ``delrec_lite.export.onnx_graph``.

    Args:
        bundle: With an ONNX file.
        threads: Default: the cores allowed.

    Raises:
        BundleError: ONNX Runtime does not load the file, or it does not fit catalogue and prompt.
        MissingPackageError: onnxruntime is not installed.
        UsageError: See ``threads_for``.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._path = bundle.onnx_path
        self._facts = _facts(self._path)
        self._prompt, self._items = bundle.prompt, bundle.trained
        self._threads = threads_for(threads)
        self._session: Any = open_session(self._path, self._threads)
        self._single: Any = None  # with one thread, opened when many requests come at once
        self._lock = threading.RLock()  # a group opens the second session while it holds it
        self._past: dict[int, Floats] = {}  # keys and values by session slot
        self._sessions = Sessions(SESSIONS, lambda slot: self._past.pop(slot, None))
        try:
            self._check(bundle)
            self._rows = _token_rows(bundle, self.hidden)
            self._item_rows = read_item_rows(self._path, self._items, self.hidden)
        except BaseException:
            self.close()
            raise

    def _check(self, bundle: Bundle) -> None:
        if not self._prompt.format.only_item_rows:
            raise BundleError(f"{self._path} reads item tokens; prompt.json asks for something else", REMEDY)
        inputs, outputs = shapes(self._session.get_inputs()), shapes(self._session.get_outputs())
        defaults = shapes(self._session.get_overridable_initializers())
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            prefix, positions = json.loads(metadata["delrec.prefix"]), int(metadata["delrec.positions"])
            # One scale for the activations of a whole batch would let users change each other's answers.
            self._batch_size = 1 if metadata["delrec.activations"] == "tensor" else BATCH
            items, self.hidden = outputs["scores"][1], int(outputs["state"][1])
            if set(inputs) != {"items"} or set(defaults) != {"new_items", "past"} or "present" not in outputs:
                raise ValueError("other inputs or outputs")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BundleError(f"{self._path} is not a graph that export writes: {error}", REMEDY) from error
        hidden = bundle.manifest["model"].get("hidden", self.hidden)
        if hidden != self.hidden:
            raise BundleError(f"{self._path} has width {self.hidden}; its manifest says {hidden}", REMEDY)
        if items != self._items:
            raise BundleError(f"{self._path} has {items} items; the catalogue has {self._items}", REMEDY)
        if prefix != self._prompt.prefix:
            raise BundleError(f"{self._path} was exported with another prefix than prompt.json has", REMEDY)
        if len(prefix) + self._prompt.max_history > positions:
            length = len(prefix) + self._prompt.max_history
            raise BundleError(f"prompt and history take {length} tokens; {self._path} reads {positions}", REMEDY)
        self._encoder = PromptEncoder(bundle.prompts, self._prompt.max_history, self.hidden)

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        histories = [self._entries(request) for request in requests]
        return self._evaluate(histories, {"scores": self._items})[0]

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        if session is not None:
            (scores, state), computed = self._continue_session(session, requests[0], ["scores", "state"])
            return Evaluation(scores, state, computed)
        histories = [self._entries(request) for request in requests]
        scores, states = self._evaluate(histories, {"scores": self._items, "state": self.hidden})
        return Evaluation(scores, states, sum(map(len, histories)))

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.hidden_states``."""
        return self.evaluate(requests).states

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        (scores,), computed = self._continue_session(session, request, ["scores"])
        return scores[0], computed

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``: a request, or a batch of them, on each core.

        The graph has one length of the past for all rows of a batch, so a session is a piece of work of its own.
        """
        histories = [self._entries(request) for request in requests]
        scores = np.empty((len(requests), self._items), np.float32)
        hidden = np.empty((len(requests), self.hidden if states else 0), np.float32)
        tokens = [len(entries) for entries in histories]
        names = ["scores", "state"] if states else ["scores"]

        def evaluate(graph: Any, piece: Piece) -> None:
            rows, session, reused = piece
            feeds = _feeds([histories[row][reused:] for row in rows], self._items)
            if session is None:
                results = run(graph, names, feeds)
            else:
                if reused:
                    feeds["past"] = self._past[session.slot][:, :, :, : len(self._prompt.prefix) + reused]
                *results, self._past[session.slot] = run(graph, [*names, "present"], feeds)
                tokens[rows[0]] -= reused
            for output, values in zip((scores, hidden), results, strict=False):
                output[rows] = values

        with self._lock:
            self._open_session()
            for rows in _rounds(sessions):
                fresh = [row for row in rows if sessions[row] is None]
                most = min(self._batch_size, -(-len(fresh) // self._threads))
                groups = _groups([len(histories[row]) for row in fresh], most)
                continued = {row: name for row in rows if (name := sessions[row]) is not None}
                taken = self._sessions.take_together([(n, keys_of(histories[row])) for row, n in continued.items()])
                pieces: list[Piece] = [([fresh[n] for n in group], None, 0) for group in groups]
                pieces += [([row], *session) for row, session in zip(continued, taken, strict=True)]
                try:
                    self._do_all(pieces, evaluate, per_thread=1)
                except BaseException:
                    for name in continued.values():
                        self._sessions.drop(name)
                    raise
        return GroupEvaluation(scores, hidden, tokens)

    def _continue_session(
        self, session: str, request: Sequence[Entry], outputs: Sequence[str]
    ) -> tuple[list[Floats], int]:
        """Evaluate what a session does not hold yet; the graph's outputs, and how many tokens were evaluated."""
        entries = self._entries(request)
        keys = keys_of(entries)
        with self._lock:
            graph = self._open_session()
            cached = self._sessions.take(session, len(entries))
            reused = count_shared(cached.entries, keys)
            cached.entries = []  # until the evaluation has succeeded
            feeds = _feeds([entries[reused:]], self._items)
            if reused:
                feeds["past"] = self._past[cached.slot][:, :, :, : len(self._prompt.prefix) + reused]
            *results, self._past[cached.slot] = run(graph, [*outputs, "present"], feeds)
            cached.entries = keys
            return results, len(entries) - reused

    def forget(self, session: str) -> None:
        """See ``Engine.forget``."""
        with self._lock:
            self._sessions.drop(session)

    def score_candidates(
        self, request: Sequence[Entry], candidates: Sequence[Entry], session: str | None = None
    ) -> tuple[Floats, int]:
        """See ``Engine.score_candidates``: no ONNX file ranks candidates alone."""
        raise UsageError("this bundle ranks the whole catalogue", "take the candidates' scores out of `scores`")

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """See ``Engine.count_tokens``."""
        return self._encoder.count_tokens(request, candidates)

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """See ``Engine.token_vector``."""
        rows = [int(token) for token in tokens]
        if not rows or not all(0 <= row < len(self._rows) for row in rows):
            raise BundleError(f"{self._path.parent}: no token rows for {rows[:5]}", REMEDY)
        mean: Floats = self._rows[rows].astype(np.float32).mean(0)
        return mean

    def item_vectors(self, items: Sequence[int]) -> Floats:
        """See ``Engine.item_vectors``."""
        vectors: Floats = self._item_rows[list(items)].astype(np.float32)
        return vectors

    def close(self) -> None:
        """See ``Engine.close``."""
        with self._lock:
            self._session = self._single = None
            self._past.clear()

    def _open_session(self) -> Any:
        if self._session is None:
            raise DelrecError("this recommender is closed", "load the bundle again")
        return self._session

    def _evaluate(self, histories: Sequence[Sequence[Token]], widths: Mapping[str, int]) -> list[Floats]:
        """Outputs of the graph for each history: ``[histories, width]`` for every output name in ``widths``."""
        outputs = [np.empty((len(histories), width), np.float32) for width in widths.values()]
        groups = list(_groups([len(entries) for entries in histories], self._batch_size))

        def evaluate(graph: Any, rows: list[int]) -> None:
            results = run(graph, list(widths), _feeds([histories[row] for row in rows], self._items))
            for output, values in zip(outputs, results, strict=True):
                output[rows] = values

        self._do_all(groups, evaluate, GROUPS_PER_THREAD)
        return outputs

    def _do_all(self, work: Sequence[T], do: Callable[[Any, T], object], per_thread: int) -> None:
        """Do every piece of work with a session; from ``per_thread`` pieces for each thread on, a thread does its own.

        Below that, all threads share each piece.
        """
        session = self._open_session()
        if self._threads > 1 and len(work) >= per_thread * self._threads:
            single = self._single_threaded()
            if single is not None:
                with ThreadPoolExecutor(self._threads) as pool:
                    list(pool.map(partial(do, single), work))  # threads may run one session of ONNX Runtime at once
                return
        for piece in work:
            do(session, piece)

    def _single_threaded(self) -> Any:
        """The session with one thread; None where the file has changed since it was loaded."""
        with self._lock:
            self._open_session()
            if self._single is None and _facts(self._path) == self._facts:
                self._single = open_session(self._path, 1)
            return self._single

    def _entries(self, request: Sequence[Entry]) -> list[Token]:
        """The newest entries of a history with the graph's item ids, which begin at 0."""
        base = self._prompt.item_token_base
        return [token - base if isinstance(token, int) else token for token in self._encoder.history(request)]


def _rounds(sessions: Sequence[str | None]) -> Iterator[list[int]]:
    """Rows in order, divided so that no session comes twice and that all sessions of a part can be kept."""
    rows: list[int] = []
    names: set[str] = set()
    for row, name in enumerate(sessions):
        if name is not None and (name in names or len(names) == SESSIONS):
            yield rows
            rows, names = [], set()
        rows.append(row)
        if name is not None:
            names.add(name)
    if rows:
        yield rows


def _feeds(requests: Sequence[Sequence[Token]], items: int) -> dict[str, Any]:
    """The graph's inputs; vectors get the ids behind the catalogue's."""
    vectors: list[Floats] = []
    rows = []
    for entries in requests:
        row = []
        for entry in entries:
            if not isinstance(entry, int):
                vectors.append(entry)
                entry = items + len(vectors) - 1
            row.append(entry)
        rows.append(row)
    feeds: dict[str, Any] = {"items": padded(rows)}
    return {**feeds, "new_items": np.stack(vectors)} if vectors else feeds


def _groups(lengths: Sequence[int], max_rows: int) -> Iterator[list[int]]:
    """Rows that are evaluated together: of similar length, so that there is little padding."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if group and (len(group) == max_rows or (len(group) + 1) * lengths[row] > BATCH_ITEMS):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _facts(path: Path) -> list[tuple[int, int, int]]:
    """What changes where a model or its weights are replaced or changed; empty where they are gone."""
    try:
        stats = [file.stat() for file in (path, path.with_name(f"{path.name}.data"))]
    except OSError:
        return []
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def _token_rows(bundle: Bundle, hidden: int) -> Any:
    """Input rows of the text tokens: float16 ``[tokens, hidden]``."""
    path = bundle.token_rows_path
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
    if rows.ndim != 2 or rows.shape[1] != hidden or rows.dtype != np.float16:
        raise BundleError(f"{path} holds {rows.dtype} {rows.shape}, not float16 rows of {hidden}", REMEDY)
    return rows
