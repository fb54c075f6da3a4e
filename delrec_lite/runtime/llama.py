"""The llama.cpp engine, through its low-level interface: the prefix is evaluated once, nothing unread is computed."""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from delrec_lite.errors import BundleError, DelrecError, MissingPackageError
from delrec_lite.machine import cores_allowed
from delrec_lite.runtime.bundle import REMEDY, Bundle
from delrec_lite.runtime.engine import Entry, Floats
from delrec_lite.runtime.rows import TokenRows

# Requests evaluated together, and their tokens; a request's own length may exceed the latter.
SEQUENCES = 16
BATCH_TOKENS = 512

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
    if _silent is None:
        _silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # kept: C holds only its address
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


class LlamaEngine:
    """See ``Engine``. The scores are the logits of the item tokens: the GGUF's output rows are the verbalizer's.

    Args:
        bundle: With a GGUF file.
        threads: Default: the cores allowed.

    Raises:
        BundleError: llama.cpp does not load the file, or it does not fit catalogue and prompt.
        MissingPackageError: llama-cpp-python is not installed.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._c = c = silence()
        self._lock = threading.Lock()
        self._context = self._model = None
        self._prompt = prompt = bundle.prompt
        self._items = len(bundle.items.ids)
        settings = c.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = c.llama_model_load_from_file(str(bundle.model_path).encode(), settings)
        if not self._model:
            raise BundleError(f"llama.cpp cannot load {bundle.model_path}", REMEDY)
        self._vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self.hidden = c.llama_model_n_embd(self._model)
        if prompt.item_token_base + self._items != self._vocabulary:
            raise BundleError(
                f"{bundle.model_path} has {self._vocabulary} tokens; prompt and catalogue need "
                f"{prompt.item_token_base + self._items}",
                REMEDY,
            )
        if not prompt.prefix or not all(0 <= i < self._vocabulary for i in prompt.prefix):
            raise BundleError(f"{bundle.folder}/prompt.json has a prefix outside the vocabulary", REMEDY)
        self._rows = TokenRows(bundle.model_path)
        params = c.llama_context_default_params()
        tokens = max(BATCH_TOKENS, prompt.max_history, len(prompt.prefix))
        params.n_ctx = len(prompt.prefix) + tokens
        params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = SEQUENCES + 1
        params.n_threads = params.n_threads_batch = threads or cores_allowed()
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # the prefix's cells are shared by all sequences, not copied
        params.no_perf = True
        self._context = c.llama_init_from_model(self._model, params)
        if not self._context:
            raise BundleError(f"llama.cpp cannot make a context for {bundle.model_path}", "is there memory left?")
        self._memory = c.llama_get_memory(self._context)
        self._decode([(0, list(prompt.prefix))], 0)

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        base = self._prompt.item_token_base
        out = np.empty((len(requests), self._items), np.float32)
        for rows, _ in self._batches(requests):
            for output, row in enumerate(rows):
                logits = self._c.llama_get_logits_ith(self._context, self._outputs[output])
                out[row] = np.ctypeslib.as_array(logits, (self._vocabulary,))[base : base + self._items]
        return out

    def states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.states``."""
        out = np.empty((len(requests), self.hidden), np.float32)
        with self._lock:
            self._c.llama_set_embeddings(self._context, True)
        try:
            for rows, _ in self._batches(requests):
                for output, row in enumerate(rows):
                    state = self._c.llama_get_embeddings_ith(self._context, self._outputs[output])
                    out[row] = np.ctypeslib.as_array(state, (self.hidden,))
        finally:
            with self._lock:
                self._c.llama_set_embeddings(self._context, False)
        return out

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """The mean input row of text tokens: float32 ``[hidden]``."""
        return self._rows.mean(tokens)

    def close(self) -> None:
        """Free the model."""
        if self._context:
            self._c.llama_free(self._context)
            self._context = None
        if self._model:
            self._c.llama_model_free(self._model)
            self._model = None

    def _batches(self, requests: Sequence[Sequence[Entry]]) -> Iterator[tuple[list[int], None]]:
        """Decode requests in groups; while a group is yielded its outputs can be read, and nobody else decodes."""
        group: list[int] = []
        size = 0
        groups = []
        for row, request in enumerate(requests):
            n = min(len(request), self._prompt.max_history)
            if group and (len(group) == SEQUENCES or size + n > BATCH_TOKENS):
                groups.append(group)
                group, size = [], 0
            group.append(row)
            size += n
        groups += [group] if group else []
        for rows in groups:
            with self._lock:
                if not self._context:
                    raise DelrecError("this recommender is closed", "load the bundle again")
                work = [(n + 1, list(requests[row])[-self._prompt.max_history :]) for n, row in enumerate(rows)]
                for sequence, _ in work:
                    self._c.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
                try:
                    self._decode(work, len(self._prompt.prefix))
                    yield rows, None
                finally:
                    for sequence, _ in work:
                        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _decode(self, work: Sequence[tuple[int, list[Any]]], start: int) -> None:
        """Evaluate items behind position ``start`` of each sequence; the last of each gives an output."""
        prefix = start == 0
        vectors = any(not isinstance(entry, int | np.integer) for _, entries in work for entry in entries)
        total = sum(len(entries) for _, entries in work)
        batch = self._c.llama_batch_init(total, self.hidden if vectors else 0, 1)
        try:
            batch.n_tokens = total
            self._outputs = []
            at = 0
            for sequence, entries in work:
                for n, entry in enumerate(entries):
                    if vectors:
                        row = self._vector(entry)
                        ctypes.memmove(
                            ctypes.addressof(batch.embd.contents) + at * self.hidden * 4,
                            row.ctypes.data,
                            row.nbytes,
                        )
                    else:
                        batch.token[at] = int(entry) + (0 if prefix else self._prompt.item_token_base)
                    batch.pos[at] = start + n
                    batch.n_seq_id[at] = 1
                    batch.seq_id[at][0] = sequence
                    batch.logits[at] = not prefix and n == len(entries) - 1
                    at += 1
                self._outputs.append(at - 1)
            code = self._c.llama_decode(self._context, batch)
        finally:
            self._c.llama_batch_free(batch)
        if code != 0:
            raise DelrecError(f"llama.cpp could not evaluate the request (code {code})", "is there memory left?")

    def _vector(self, entry: Entry) -> Floats:
        if isinstance(entry, int | np.integer):
            return self._rows.row(self._prompt.item_token_base + int(entry))
        return np.ascontiguousarray(entry, np.float32)
