"""The llama.cpp engine, through its low-level interface: the prefix is evaluated once, nothing unread is computed."""

import ctypes
import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from delrec_lite.architectures import written_as
from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, install_line
from delrec_lite.machine import threads_for
from delrec_lite.prompts.verbalizer import Answer, Candidate
from delrec_lite.prompts.vocabulary import FIRST_DEEP
from delrec_lite.runtime.bundle import DEEP, REMEDY, Bundle
from delrec_lite.runtime.engines.base import Evaluation
from delrec_lite.runtime.engines.prompt_state import PromptState
from delrec_lite.runtime.engines.sessions import Sessions, common
from delrec_lite.runtime.gguf.checks import check_gguf
from delrec_lite.runtime.gguf.rows import TokenRows
from delrec_lite.runtime.prompting.encoder import Entry, PromptEncoder, Token

# Requests evaluated together, and their tokens; a request's own length may exceed the latter.
SEQUENCES = 16
BATCH_TOKENS = 512
# Users whose last history stays in the cache, and the most tokens they hold together. A cell of SmolLM2-135M holds
# 23 kB, so 16 histories of 50 items hold 18 MB; of titles, ten tokens each, four histories of 50 fit.
SESSIONS = 16
SESSION_TOKENS = 2048

_silent: Any = None


def silence() -> Any:
    """Import ``llama_cpp`` and turn off llama.cpp's log.

    Raises:
        MissingPackageError: It is not installed.
    """
    global _silent
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingPackageError(
            "serving a GGUF bundle needs llama-cpp-python, which is not installed", install_line("llama_cpp")
        ) from error
    except (OSError, RuntimeError) as error:  # installed, but its compiled library does not load here
        raise MissingPackageError(
            f"llama-cpp-python does not load: {str(error).splitlines()[0]}",
            "pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    if _silent is None:
        _silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # kept: C holds only its address
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


class LlamaEngine:
    """See ``Engine``. The scores are the logits of the item tokens: the GGUF's output rows are the verbalizer's.

    Among candidates they are what the bundle's verbalizer makes of logits and probabilities.

    llama.cpp computes the logits of every output whether or not they are asked for, and in its embeddings mode
    every token of a batch is an output; so logits at the last item alone are the cheapest thing to read.

    Args:
        bundle: With a GGUF file.
        threads: Default: the cores allowed.

    Raises:
        BundleError: llama.cpp does not load the file, or it does not fit catalogue and prompt.
        MissingPackageError: llama-cpp-python is not installed.
        UsageError: See ``threads_for``.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        count = threads_for(threads)
        self._c: Any = silence()
        self._lock = threading.Lock()
        self._context: Any = None
        self._model: Any = None
        self._outputs: list[int] = []
        try:
            self._load(bundle, count)
        except BaseException:
            self.close()
            raise

    def _load(self, bundle: Bundle, threads: int) -> None:
        c = self._c
        self._prompt = prompt = bundle.prompt
        self._items = bundle.trained
        header = check_gguf(bundle.model_path, bundle.manifest["model"].get("architecture"))
        settings = c.llama_model_default_params()
        settings.n_gpu_layers = 0
        # Read, not mapped: llama.cpp repacks most tensors, and the mapped originals would stay in memory beside them
        # (163 MB instead of 213 on SmolLM2-135M in iq4_mix).
        if hasattr(settings, "load_mode"):
            settings.load_mode = c.LLAMA_LOAD_MODE_NONE
        else:  # older releases of llama-cpp-python
            settings.use_mmap = False
        self._model = c.llama_model_load_from_file(str(bundle.model_path).encode(), settings)
        if not self._model:
            raise BundleError(f"llama.cpp cannot load {bundle.model_path}", REMEDY)
        self._vocabulary: int = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self.hidden: int = c.llama_model_n_embd(self._model)
        # llama.cpp multiplies tokens' rows by this in some families, and given vectors not.
        families = written_as(str(header.values["general.architecture"].value))
        self._embedding_scale = np.float32(self.hidden**0.5 if families[0].scaled_embedding else 1)
        told = bundle.manifest["model"].get("hidden", self.hidden)
        if told != self.hidden:
            raise BundleError(f"{bundle.model_path} has width {self.hidden}; its manifest says {told}", REMEDY)
        need = prompt.item_token_base + (self._items if prompt.format.item_tokens else 0)
        if need != self._vocabulary:
            raise BundleError(
                f"{bundle.model_path} has {self._vocabulary} tokens; prompt and catalogue need {need}", REMEDY
            )
        if not prompt.prefix or not all(0 <= i < self._vocabulary for i in prompt.prefix):
            raise BundleError(f"{bundle.folder}/prompt.json has a prefix outside the vocabulary", REMEDY)
        self._encoder = PromptEncoder(bundle.prompts, prompt.max_history, self.hidden)
        longest, room = self._encoder.longest, c.llama_model_n_ctx_train(self._model)
        if (length := len(prompt.prefix) + longest) > room:
            raise BundleError(f"prompt and history take {length} tokens; {bundle.model_path} reads {room}", REMEDY)
        self._rows = TokenRows(bundle.model_path, header)
        held = min(SESSIONS * longest, max(SESSION_TOKENS, longest))
        self._sessions = Sessions(SESSIONS, self._drop_slot, held)
        params = c.llama_context_default_params()
        params.n_batch = max(BATCH_TOKENS, longest, len(prompt.prefix))
        params.n_ubatch = BATCH_TOKENS
        params.n_ctx = len(prompt.prefix) + params.n_batch + held
        if prompt.format.verbalizer_kind.continued:
            params.n_ctx += BATCH_TOKENS  # candidates' own tokens, behind a question
        params.n_seq_max = 1 + SEQUENCES + SESSIONS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # the prefix's cells are shared by all sequences, not copied
        params.no_perf = True
        self._context = c.llama_init_from_model(self._model, params)
        if not self._context:
            raise BundleError(f"llama.cpp cannot make a context for {bundle.model_path}", "is there memory left?")
        self._memory: Any = c.llama_get_memory(self._context)
        deep = bundle.deep
        if deep is not None and len(deep) != c.llama_model_n_layer(self._model) - FIRST_DEEP:
            raise BundleError(f"{bundle.folder / DEEP} is of another model's depth", REMEDY)
        kept = PromptState(bundle, c)
        if not kept.restore(self._context):
            self._read_prefix(deep)
            kept.store(self._context)

    def _read_prefix(self, deep: Floats | None) -> None:
        """Evaluate the prefix in sequence 0, a deep prompt's soft tokens one by one, each with its own vectors."""
        prefix, first = self._prompt.prefix, self._prompt.text_tokens
        if deep is None:
            self._decode([(0, 0, prefix)], reads=0)
            return
        at = 0
        for soft, group in groupby(prefix, lambda token: first <= token < self._prompt.item_token_base):
            tokens = list(group)
            for part in [[token] for token in tokens] if soft else [tokens]:
                self._steer(deep[:, part[0] - first] if soft else None)
                self._decode([(0, at, part)], reads=0)
                at += len(part)
        self._steer(None)

    def _steer(self, vectors: Floats | None) -> None:
        """Have llama.cpp add vectors to what the second layer and those behind it make, ``[layers - 2, hidden]``."""
        steer = getattr(self._c, "llama_set_adapter_cvec", None) or self._c.llama_apply_adapter_cvec
        if vectors is None:
            steer(self._context, None, 0, 0, 0, 0)
            return
        data = np.ascontiguousarray(vectors, np.float32)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if steer(self._context, pointer, data.size, self.hidden, 1, len(data)) != 0:
            raise BundleError("llama.cpp does not take the deep prompt's vectors", REMEDY)

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        out = np.empty((len(requests), self._items), np.float32)
        for rows in self._batches(requests):
            for output, row in zip(self._outputs, rows, strict=True):
                out[row] = self._scores(output)
        return out

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        tokens = self._encoder.history(request)
        with self._lock:
            self._opened()
            _, kept = self._go_on(session, tokens)
            return self._scores(self._outputs[0]).copy(), len(tokens) - kept

    def score_candidates(
        self, request: Sequence[Entry], candidates: Sequence[Entry], session: str | None = None
    ) -> tuple[Floats, int]:
        """See ``Engine.score_candidates``."""
        tokens, choices, own = self._encoder.question(request, candidates)
        start, kept = len(self._prompt.prefix), 0
        with self._lock:
            self._opened()
            if session is not None:
                sequence, kept = self._go_on(session, tokens)
                scores = self._chosen(sequence, start + len(tokens), choices)
                return scores, len(tokens) - kept + own
            try:
                self._c.llama_memory_seq_cp(self._memory, 0, 1, -1, -1)
                self._decode([(1, start, tokens)], reads=1)
                return self._chosen(1, start + len(tokens), choices), len(tokens) + own
            finally:
                self._c.llama_memory_seq_rm(self._memory, 1, -1, -1)

    def _chosen(self, sequence: int, end: int, candidates: Sequence[Candidate]) -> Floats:
        """Scores of candidates behind a question whose last token was read; ``end`` is the next one's position."""
        logits = self._logits(self._outputs[0]).copy()  # the next decode overwrites them
        answer = Answer(logits, lambda texts: self._log_likelihoods(sequence, end, logits, texts))
        return self._prompt.format.verbalizer_kind.score(answer, candidates, self._prompt.pieces)

    def _log_likelihoods(self, sequence: int, end: int, logits: Floats, texts: Sequence[Sequence[int]]) -> Floats:
        """Log-probability of each text after the question: it is evaluated once, and its cells are shared."""
        scores = self._log_probabilities(logits)[[text[0] for text in texts]]
        longer = [n for n, text in enumerate(texts) if len(text) > 1]  # nobody reads behind a text's last token
        for group in _groups([len(texts[n]) - 1 for n in longer], SEQUENCES - 1):
            some = [texts[longer[n]] for n in group]
            try:
                parts = []
                for place, text in enumerate(some, 2):
                    self._c.llama_memory_seq_cp(self._memory, sequence, place, -1, -1)
                    parts.append((place, end, text[:-1]))
                self._decode(parts, reads=BATCH_TOKENS)
                outputs = iter(self._outputs)
                for n, text in zip(group, some, strict=True):
                    read = (self._log_probabilities(self._logits(next(outputs)))[token] for token in text[1:])
                    scores[longer[n]] += sum(read)
            finally:
                for place in range(2, len(some) + 2):
                    self._c.llama_memory_seq_rm(self._memory, place, -1, -1)
        return scores

    def _log_probabilities(self, logits: Floats) -> Floats:
        """Of the text tokens, as in training: soft prompt and items are no text."""
        logits = logits[: self._prompt.text_tokens]
        top = logits.max()
        out: Floats = logits - (top + np.log(np.exp(logits - top).sum()))
        return out

    def _go_on(self, session: str, tokens: Sequence[Token], states: bool = False) -> tuple[int, int]:
        """Evaluate what a session does not hold yet; its sequence, and how many of the tokens it held.

        With ``states`` the hidden state can be read too.
        """
        names = [named(token) for token in tokens]
        start = len(self._prompt.prefix)
        held = self._sessions.take(session, len(tokens))
        sequence = _sequence(held.slot)
        kept = common(held.entries, names)
        try:
            if kept:
                self._c.llama_memory_seq_rm(self._memory, sequence, start + kept, -1)
            else:
                self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)
                self._c.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            work = [(sequence, start + kept, tokens[kept:])]
            if states:
                self._decode_states(work)
            else:
                self._decode(work, reads=1)
        except BaseException:
            self._sessions.drop(session)
            raise
        held.entries = names
        return sequence, kept

    def forget(self, session: str) -> None:
        """See ``Engine.forget``."""
        with self._lock:
            if self._context:
                self._sessions.drop(session)

    def _drop_slot(self, slot: int) -> None:
        self._c.llama_memory_seq_rm(self._memory, _sequence(slot), -1, -1)

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """See ``Engine.count_tokens``."""
        return self._encoder.count_tokens(request, candidates)

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        if session is not None:
            tokens = self._encoder.history(requests[0])
            with self._lock:
                self._opened()
                _, kept = self._go_on(session, tokens, states=True)
                output = self._outputs[0]
                scores, states = self._scores(output)[None].copy(), self._state(output)[None].copy()
            return Evaluation(scores, states, len(tokens) - kept)
        scores = np.empty((len(requests), self._items), np.float32)
        states = np.empty((len(requests), self.hidden), np.float32)
        for rows in self._batches(requests, states=True):
            for output, row in zip(self._outputs, rows, strict=True):
                scores[row], states[row] = self._scores(output), self._state(output)
        return Evaluation(scores, states, sum(self.count_tokens(request)[1] for request in requests))

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.hidden_states``."""
        return self.evaluate(requests).states

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """See ``Engine.token_vector``."""
        return self._rows.mean(tokens)

    def close(self) -> None:
        """See ``Engine.close``; waits for a request that is being answered."""
        with self._lock:
            if self._context:
                self._c.llama_free(self._context)
                self._context = None
            if self._model:
                self._c.llama_model_free(self._model)
                self._model = None

    def _opened(self) -> None:
        if not self._context:
            raise DelrecError("this recommender is closed", "load the bundle again")

    def _logits(self, output: int) -> Floats:
        """All logits at an output, valid until the next decode."""
        logits: Floats = np.ctypeslib.as_array(self._c.llama_get_logits_ith(self._context, output), (self._vocabulary,))
        return logits

    def _scores(self, output: int) -> Floats:
        """The items' scores at an output, valid until the next decode."""
        base = self._prompt.item_token_base
        return self._logits(output)[base : base + self._items]

    def _state(self, output: int) -> Floats:
        """The hidden state at an output of ``_decode_states``, valid until the next decode."""
        state: Floats = np.ctypeslib.as_array(self._c.llama_get_embeddings_ith(self._context, output), (self.hidden,))
        return state

    def _batches(self, requests: Sequence[Sequence[Entry]], states: bool = False) -> Iterator[list[int]]:
        """Decode requests in groups and yield each group's rows.

        While a group is yielded its outputs can be read, and nobody else decodes: ``_outputs[n]`` belongs to the
        n-th of the rows. With ``states`` hidden states can be read beside the logits.
        """
        work = [self._encoder.history(request) for request in requests]
        for rows in _groups([len(tokens) for tokens in work]):
            with self._lock:
                self._opened()
                try:
                    self._answer([work[row] for row in rows], states)
                    yield rows
                finally:
                    for sequence in range(1, len(rows) + 1):
                        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _answer(self, work: Sequence[list[Token]], states: bool) -> None:
        """Evaluate a group's histories, each behind the prefix in a sequence of its own."""
        start = len(self._prompt.prefix)
        for sequence in range(1, len(work) + 1):
            self._c.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        if not states:
            places, self._outputs = joined(work)
            self._evaluate(start, places)
            return
        self._decode_states([(sequence, start, tokens) for sequence, tokens in enumerate(work, 1)])

    def _decode_states(self, work: Sequence[tuple[int, int, Sequence[Token]]]) -> None:
        """As ``_decode`` with one output each, of which the hidden state can be read too."""
        # In embeddings mode every token is an output and pays for the LM head, so only the last ones go through it.
        if any(len(tokens) > 1 for _, _, tokens in work):
            self._decode([(s, at, tokens[:-1]) for s, at, tokens in work if len(tokens) > 1], reads=0)
        self._c.llama_set_embeddings(self._context, True)
        try:
            self._decode([(s, at + len(tokens) - 1, tokens[-1:]) for s, at, tokens in work], reads=1)
        finally:
            self._c.llama_set_embeddings(self._context, False)

    def _decode(self, work: Sequence[tuple[int, int, Sequence[Token]]], reads: int) -> None:
        """Evaluate extended token ids or vectors: ``(sequence, position of the first, tokens)``, none empty.

        The last ``reads`` tokens of each, or all it has, give an output; ``_outputs`` holds their places in the batch.
        """
        places: list[Place] = []
        self._outputs = []
        for sequence, start, tokens in work:
            read_from = len(tokens) - reads
            places += (Place(token, start + n, [sequence], n >= read_from) for n, token in enumerate(tokens))
            self._outputs += range(len(places) - min(reads, len(tokens)), len(places))
        self._evaluate(0, places)

    def _evaluate(self, start: int, places: Sequence["Place"]) -> None:
        """One call of llama.cpp, positions counted from ``start``."""
        vectors = any(not isinstance(place.token, int) for place in places)
        most = max(len(place.sequences) for place in places)
        batch = self._c.llama_batch_init(len(places), self.hidden if vectors else 0, most)
        try:
            batch.n_tokens = len(places)
            for at, place in enumerate(places):
                if vectors:
                    token = place.token
                    row = (self._rows.row(token) if isinstance(token, int) else token) * self._embedding_scale
                    target = ctypes.addressof(batch.embd.contents) + at * self.hidden * 4
                    ctypes.memmove(target, row.ctypes.data, self.hidden * 4)
                else:
                    batch.token[at] = place.token
                batch.pos[at] = start + place.position
                batch.n_seq_id[at] = len(place.sequences)
                for n, sequence in enumerate(place.sequences):
                    batch.seq_id[at][n] = sequence
                batch.logits[at] = place.read
            code = self._c.llama_decode(self._context, batch)
        finally:
            self._c.llama_batch_free(batch)
        if code != 0:
            raise DelrecError(f"llama.cpp could not evaluate the request (code {code})", "is there memory left?")


@dataclass
class Place:
    """A token of a batch.

    Attributes:
        token: Its id, or a vector.
        position: In its sequences.
        sequences: Those that it stands in.
        read: Whether it gives an output.
    """

    token: Token
    position: int
    sequences: list[int]
    read: bool = False


def joined(histories: Sequence[Sequence[Token]]) -> tuple[list[Place], list[int]]:
    """Histories as sequences 1, 2, ... of a batch, in which what several begin with is there once.

    An explanation asks for a history without each of its items in turn: half of their tokens are shared beginnings.

    Returns:
        The tokens, each behind those before it, and where in them every history ends.
    """
    places: list[Place] = []
    behind: dict[tuple[int, Hashable], int] = {}
    ends = []
    for sequence, tokens in enumerate(histories, 1):
        at = -1
        for position, token in enumerate(tokens):
            key = (at, named(token))
            if key not in behind:
                behind[key] = len(places)
                places.append(Place(token, position, []))
            at = behind[key]
            places[at].sequences.append(sequence)
        places[at].read = True
        ends.append(at)
    return places, ends


def named(token: Token) -> Hashable:
    """What tells a token from others."""
    return token if isinstance(token, int) else token.tobytes()


def _sequence(slot: int) -> int:
    """A session's; 0 is the prefix, those behind it a batch's."""
    return 1 + SEQUENCES + slot


def _groups(lengths: Sequence[int], most: int = SEQUENCES) -> Iterator[list[int]]:
    """Rows that are evaluated together, in order: at most so many, and no more tokens than a batch has."""
    group: list[int] = []
    size = 0
    for row, length in enumerate(lengths):
        if group and (len(group) == most or size + length > BATCH_TOKENS):
            yield group
            group, size = [], 0
        group.append(row)
        size += length
    if group:
        yield group
