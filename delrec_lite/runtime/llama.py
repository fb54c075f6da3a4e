"""The llama.cpp engine, through its low-level interface: the prefix is evaluated once, nothing unread is computed."""

import ctypes
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError
from delrec_lite.machine import threads_for
from delrec_lite.runtime.bundle import REMEDY, Bundle
from delrec_lite.runtime.engine import Entry
from delrec_lite.runtime.gguf_check import check_gguf
from delrec_lite.runtime.gguf_rows import TokenRows
from delrec_lite.runtime.prompt_state import PromptState
from delrec_lite.runtime.sessions import Sessions, common

# Requests evaluated together, and their tokens; a request's own length may exceed the latter.
SEQUENCES = 16
BATCH_TOKENS = 512
# Users whose last history stays in the cache. A cell of SmolLM2-135M holds 23 kB, so 16 histories of 50 hold 18 MB.
SESSIONS = 16

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
            "serving a GGUF bundle needs llama-cpp-python, which is not installed",
            'pip install "delrec-lite[gguf]"',
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
        self._sessions = Sessions(SESSIONS)
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
        # llama.cpp's Gemma makes tokens' rows louder by this, and vectors not.
        self._loudness = np.float32(
            self.hidden**0.5 if str(header.values["general.architecture"].value).startswith("gemma") else 1
        )
        told = bundle.manifest["model"].get("hidden", self.hidden)
        if told != self.hidden:
            raise BundleError(f"{bundle.model_path} has width {self.hidden}; its manifest says {told}", REMEDY)
        if prompt.item_token_base + self._items != self._vocabulary:
            raise BundleError(
                f"{bundle.model_path} has {self._vocabulary} tokens; prompt and catalogue need "
                f"{prompt.item_token_base + self._items}",
                REMEDY,
            )
        if not prompt.prefix or not all(0 <= i < self._vocabulary for i in prompt.prefix):
            raise BundleError(f"{bundle.folder}/prompt.json has a prefix outside the vocabulary", REMEDY)
        length, room = len(prompt.prefix) + prompt.max_history, c.llama_model_n_ctx_train(self._model)
        if length > room:
            raise BundleError(f"prompt and history take {length} tokens; {bundle.model_path} reads {room}", REMEDY)
        self._rows = TokenRows(bundle.model_path, header)
        params = c.llama_context_default_params()
        tokens = max(BATCH_TOKENS, prompt.max_history, len(prompt.prefix))
        params.n_ctx = len(prompt.prefix) + tokens + SESSIONS * prompt.max_history
        params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = 1 + SEQUENCES + SESSIONS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # the prefix's cells are shared by all sequences, not copied
        params.no_perf = True
        self._context = c.llama_init_from_model(self._model, params)
        if not self._context:
            raise BundleError(f"llama.cpp cannot make a context for {bundle.model_path}", "is there memory left?")
        self._memory: Any = c.llama_get_memory(self._context)
        kept = PromptState(bundle, c)
        if not kept.restore(self._context):
            self._decode([(0, 0, prompt.prefix)], read=False)
            kept.store(self._context)

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        out = np.empty((len(requests), self._items), np.float32)
        for rows in self._batches(requests):
            for output, row in zip(self._outputs, rows, strict=True):
                out[row] = self._logits(output)
        return out

    def step(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.step``."""
        entries = self._tokens(request)
        names: list[Hashable] = [entry if isinstance(entry, int) else entry.tobytes() for entry in entries]
        start = len(self._prompt.prefix)
        with self._lock:
            self._opened()
            held = self._sessions.take(session)
            sequence = 1 + SEQUENCES + held.slot
            kept = common(held.entries, names)
            held.entries = []  # until all went well
            if kept:
                self._c.llama_memory_seq_rm(self._memory, sequence, start + kept, -1)
            else:
                self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)
                self._c.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            self._decode([(sequence, start + kept, entries[kept:])], read=True)
            held.entries = names
            return self._logits(self._outputs[0]).copy(), len(entries) - kept

    def forget(self, session: str) -> None:
        """See ``Engine.forget``."""
        with self._lock:
            self._sessions.drop(session)

    def states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.states``."""
        out = np.empty((len(requests), self.hidden), np.float32)
        for rows in self._batches(requests, embeddings=True):
            for output, row in zip(self._outputs, rows, strict=True):
                state = self._c.llama_get_embeddings_ith(self._context, output)
                out[row] = np.ctypeslib.as_array(state, (self.hidden,))
        return out

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
        """The items' scores at an output, valid until the next decode."""
        logits = self._c.llama_get_logits_ith(self._context, output)
        base = self._prompt.item_token_base
        scores: Floats = np.ctypeslib.as_array(logits, (self._vocabulary,))[base : base + self._items]
        return scores

    def _batches(self, requests: Sequence[Sequence[Entry]], embeddings: bool = False) -> Iterator[list[int]]:
        """Decode requests in groups and yield each group's rows.

        While a group is yielded its outputs can be read, and nobody else decodes: ``_outputs[n]`` belongs to the
        n-th of the rows. With ``embeddings`` hidden states can be read, else logits.
        """
        work = [self._tokens(request) for request in requests]
        for rows in _groups([len(entries) for entries in work]):
            with self._lock:
                self._opened()
                try:
                    self._answer([work[row] for row in rows], embeddings)
                    yield rows
                finally:
                    for sequence in range(1, len(rows) + 1):
                        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _answer(self, work: Sequence[list[Entry]], embeddings: bool) -> None:
        """Evaluate a group's histories, each behind the prefix in a sequence of its own."""
        start = len(self._prompt.prefix)
        parts = []
        for sequence, entries in enumerate(work, 1):
            self._c.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            parts.append((sequence, start, entries))
        if not embeddings:
            self._decode(parts, read=True)
            return
        # In embeddings mode every token is an output and pays for the LM head, so only the last ones go through it.
        if any(len(entries) > 1 for entries in work):
            self._decode([(s, at, entries[:-1]) for s, at, entries in parts if len(entries) > 1], read=False)
        self._c.llama_set_embeddings(self._context, True)
        try:
            self._decode([(s, at + len(entries) - 1, entries[-1:]) for s, at, entries in parts], read=True)
        finally:
            self._c.llama_set_embeddings(self._context, False)

    def _decode(self, work: Sequence[tuple[int, int, Sequence[Entry]]], read: bool) -> None:
        """Evaluate extended token ids or vectors: ``(sequence, position of the first, entries)``, none empty.

        With ``read`` the last entry of each gives an output, and ``_outputs`` holds their places in the batch.
        """
        vectors = any(not isinstance(entry, int) for _, _, entries in work for entry in entries)
        total = sum(len(entries) for _, _, entries in work)
        batch = self._c.llama_batch_init(total, self.hidden if vectors else 0, 1)
        try:
            batch.n_tokens = total
            self._outputs = []
            at = 0
            for sequence, start, entries in work:
                for n, entry in enumerate(entries):
                    if vectors:
                        row = (self._rows.row(entry) if isinstance(entry, int) else entry) * self._loudness
                        place = ctypes.addressof(batch.embd.contents) + at * self.hidden * 4
                        ctypes.memmove(place, row.ctypes.data, self.hidden * 4)
                    else:
                        batch.token[at] = entry
                    batch.pos[at] = start + n
                    batch.n_seq_id[at] = 1
                    batch.seq_id[at][0] = sequence
                    batch.logits[at] = read and n == len(entries) - 1
                    at += 1
                self._outputs.append(at - 1)
            code = self._c.llama_decode(self._context, batch)
        finally:
            self._c.llama_batch_free(batch)
        if code != 0:
            raise DelrecError(f"llama.cpp could not evaluate the request (code {code})", "is there memory left?")

    def _tokens(self, request: Sequence[Entry]) -> list[Entry]:
        """The newest of a history as extended token ids and vectors, checked: C would take anything."""
        if len(request) == 0:
            raise UsageError("a history is empty", "give at least one item")
        entries: list[Entry] = []
        for entry in request[-self._prompt.max_history :]:
            if isinstance(entry, int | np.integer):
                if not 0 <= entry < self._items:
                    raise UsageError(f"no item has the index {entry}", f"items are 0 to {self._items - 1}")
                entries.append(int(entry) + self._prompt.item_token_base)
            elif np.shape(entry) == (self.hidden,):
                entries.append(np.ascontiguousarray(entry, np.float32))
            else:
                raise UsageError(f"a vector of shape {np.shape(entry)} is no item", f"its width is {self.hidden}")
        return entries


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows that are evaluated together, in order."""
    group: list[int] = []
    size = 0
    for row, length in enumerate(lengths):
        if group and (len(group) == SEQUENCES or size + length > BATCH_TOKENS):
            yield group
            group, size = [], 0
        group.append(row)
        size += length
    if group:
        yield group
