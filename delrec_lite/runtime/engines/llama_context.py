"""A GGUF model in llama.cpp: loading, checks, the context with the evaluated prefix, and single evaluations."""

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import numpy as np

from delrec_lite.architectures import gguf_architectures
from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, install_line
from delrec_lite.machine import cores_allowed
from delrec_lite.prompts.vocabulary import FIRST_DEEP
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_batch import BATCH_TOKENS, BatchToken
from delrec_lite.runtime.engines.llama_instructions import check_instructions
from delrec_lite.runtime.engines.prompt_state import PromptState
from delrec_lite.runtime.free_cores import FreeCores
from delrec_lite.runtime.gguf.checks import check_gguf
from delrec_lite.runtime.gguf.rows import TENSOR, TokenRows
from delrec_lite.runtime.gguf.trunk import trunk_file
from delrec_lite.runtime.manifest import DEEP, REMEDY
from delrec_lite.runtime.prompting.encoder import Token
from delrec_lite.spinning import bounded

# Tokens whose logits cost less than a second evaluation.
SMALL_HEAD = 8192
# A sequence, the position of the first token in it, and the tokens to evaluate there.
Work = tuple[int, int, Sequence[Token]]

_log_callback: Any = None
# The process that started llama.cpp; a process that is forked from it needs a thread of its own, see ``LlamaContext``.
_process = 0


def import_llama_cpp() -> Any:
    """Import ``llama_cpp`` with threads that spin for a bounded while, and turn off llama.cpp's log.

    Raises:
        MissingPackageError: It is not installed, does not load, or was compiled for another processor.
    """
    try:
        with bounded():
            import llama_cpp

            _start(llama_cpp)
    except ImportError as error:
        raise MissingPackageError(
            "serving a GGUF bundle needs llama-cpp-python, which is not installed", install_line("llama_cpp")
        ) from error
    except (OSError, RuntimeError) as error:  # installed, but its compiled library does not load here
        raise MissingPackageError(
            f"llama-cpp-python does not load: {str(error).splitlines()[0]}",
            "pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    return llama_cpp


def _start(llama_cpp: Any) -> None:
    """Check its instructions, turn off its log and start its threads' runtime; once in a process."""
    global _log_callback, _process
    if _log_callback is not None:
        return
    library = getattr(llama_cpp.llama_cpp, "_lib", None)
    check_instructions(library)
    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()  # sets KMP_BLOCKTIME to 200 in C's environment, unless it is set
    # LLVM's and Intel's runtimes read their settings at their first call. A library without OpenMP has no such name.
    getattr(library, "omp_get_max_threads", int)()
    _log_callback = callback  # C holds only its address
    _process = os.getpid()


class LlamaContext:
    """A loaded model and, after ``open``, its context, whose sequence 0 holds the prefix. Not safe under threads.

    OpenMP keeps helpers for each thread that calls it. A fork copies the calling thread without its helpers, for which
    it would then wait for ever; so a forked process calls llama.cpp from a new thread.

    Attributes:
        hidden: The model's width.
        rows: Its token rows.
        outputs: Indices in the last batch of the tokens that logits can be read at.
        header: Of the GGUF file.

    Args:
        bundle: With a GGUF file.
        trunk: Load the model without its items: they are read as vectors, and no logit is theirs, see ``gguf.trunk``.

    Raises:
        BundleError: llama.cpp does not load the file, or it does not fit catalogue and prompt.
        MissingPackageError: llama-cpp-python is not installed.
    """

    def __init__(self, bundle: Bundle, trunk: bool = False) -> None:
        self._c: Any = import_llama_cpp()
        self._context: Any = None
        self._model: Any = None
        self._bundle, self._prompt, self._trunk = bundle, bundle.prompt, trunk
        self.outputs: list[int] = []
        self._forked = ThreadPoolExecutor(1, "delrec-llama") if os.getpid() != _process else None
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        """Load the model and compare it with the manifest, the prompt and the catalogue."""
        c, bundle, prompt, path = self._c, self._bundle, self._prompt, self._bundle.model_path
        self.header = header = check_gguf(path, bundle.manifest["model"].get("architecture"))
        stored = header.tensors[TENSOR].shape[1]
        expected = prompt.item_token_base + (bundle.trained if prompt.format.item_tokens else 0)
        if expected != stored:
            raise BundleError(f"{path} has {stored} tokens; prompt and catalogue need {expected}", REMEDY)
        settings = c.llama_model_default_params()
        settings.n_gpu_layers = 0
        # Read, not mapped: llama.cpp repacks most tensors, and the mapped originals would stay in memory beside them
        # (163 MB instead of 213 on SmolLM2-135M in iq4_mix).
        if hasattr(settings, "load_mode"):
            settings.load_mode = c.LLAMA_LOAD_MODE_NONE
        else:  # older releases of llama-cpp-python
            settings.use_mmap = False
        with trunk_file(header, prompt.item_token_base) if self._trunk else nullcontext(path) as file:
            self._model = c.llama_model_load_from_file(str(file).encode(), settings)
        if not self._model:
            raise BundleError(f"llama.cpp cannot load {path}", REMEDY)
        self._vocabulary: int = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self.hidden: int = c.llama_model_n_embd(self._model)
        self.rows = TokenRows(path, header)
        # Some families multiply the rows of tokens by this; llama.cpp does not multiply vectors that it is given.
        families = gguf_architectures(str(header.values["general.architecture"].value))
        self._embedding_scale = np.float32(self.hidden**0.5 if families[0].scaled_embedding else 1)
        manifest_hidden = bundle.manifest["model"].get("hidden", self.hidden)
        if manifest_hidden != self.hidden:
            raise BundleError(f"{path} has width {self.hidden}; its manifest says {manifest_hidden}", REMEDY)
        if not prompt.prefix or not all(0 <= token < self._vocabulary for token in prompt.prefix):
            raise BundleError(f"{bundle.folder}/prompt.json has a prefix outside the vocabulary", REMEDY)

    def open(self, threads: int | None, longest: int, session_tokens: int, sequences: int) -> None:
        """Make the context and evaluate the prefix in it.

        Args:
            threads: Of llama.cpp; None: the cores allowed, or as many of them as other programs leave free.
            longest: Tokens of the longest request behind the prefix.
            session_tokens: Tokens that all sessions hold together at most.
            sequences: How many there are, the prefix's included.

        Raises:
            BundleError: Prompt and history are longer than the model reads, the context cannot be made, or the deep
                prompt is of another model.
        """
        c, prompt, path = self._c, self._prompt, self._bundle.model_path
        length, limit = len(prompt.prefix) + longest, c.llama_model_n_ctx_train(self._model)
        if length > limit:
            raise BundleError(f"prompt and history take {length} tokens; {path} reads {limit}", REMEDY)
        params = c.llama_context_default_params()
        params.n_batch = max(BATCH_TOKENS, longest, len(prompt.prefix))
        params.n_ubatch = BATCH_TOKENS
        params.n_ctx = len(prompt.prefix) + params.n_batch + session_tokens
        if prompt.format.verbalizer_kind.continued:
            params.n_ctx += BATCH_TOKENS  # the candidates' own tokens, behind a question
        params.n_seq_max = sequences
        self._free_cores = FreeCores() if threads is None else None
        self._threads = threads or cores_allowed()
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # all sequences share the prefix's cells without copies
        params.no_perf = True
        self._context = c.llama_init_from_model(self._model, params)
        if not self._context:
            raise BundleError(f"llama.cpp cannot make a context for {path}", "free some memory and try again")
        self._memory: Any = c.llama_get_memory(self._context)
        deep = self._bundle.deep
        if deep is not None and len(deep) != c.llama_model_n_layer(self._model) - FIRST_DEEP:
            raise BundleError(f"{self._bundle.folder / DEEP} is for a model with another number of layers", REMEDY)
        state = PromptState(self._bundle, c)
        if not state.restore(self._context):
            self._evaluate_prefix(deep)
            state.store(self._context)

    def _evaluate_prefix(self, deep: Floats | None) -> None:
        """Evaluate the prefix in sequence 0; the soft tokens of a deep prompt one by one, each with its own vectors."""
        prefix, first_soft = self._prompt.prefix, self._prompt.text_tokens
        if deep is None:
            self.decode([(0, 0, prefix)], reads=0)
            return
        start = 0
        for soft, group in groupby(prefix, lambda token: first_soft <= token < self._prompt.item_token_base):
            tokens = list(group)
            for part in [[token] for token in tokens] if soft else [tokens]:
                self._set_control_vectors(deep[:, part[0] - first_soft] if soft else None)
                self.decode([(0, start, part)], reads=0)
                start += len(part)
        self._set_control_vectors(None)

    def _set_control_vectors(self, vectors: Floats | None) -> None:
        """Make llama.cpp add ``[layers - 2, hidden]`` to the outputs of the second layer and the later ones."""
        apply = getattr(self._c, "llama_set_adapter_cvec", None) or self._c.llama_apply_adapter_cvec
        if vectors is None:
            apply(self._context, None, 0, 0, 0, 0)
            return
        floats = np.ascontiguousarray(vectors, np.float32)
        pointer = floats.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if apply(self._context, pointer, floats.size, self.hidden, 1, len(floats)) != 0:
            raise BundleError("llama.cpp does not take the deep prompt's vectors", REMEDY)

    def check_open(self) -> None:
        """Raise DelrecError after ``close``."""
        if not self.is_open:
            raise DelrecError("this recommender is closed", "load the bundle again")

    @property
    def is_open(self) -> bool:
        """Whether it can evaluate."""
        return bool(self._context)

    def close(self) -> None:
        """Free context and model; a second call does nothing."""
        if self._context:
            self._c.llama_free(self._context)
            self._context = None
        if self._model:
            self._c.llama_model_free(self._model)
            self._model = None

    def copy_sequence(self, source: int, target: int) -> None:
        """Let a sequence share the cells of another."""
        self._c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear_sequence(self, sequence: int, start: int = -1) -> None:
        """Remove a sequence's cells from a position on; default: all."""
        self._c.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def logits(self, output: int) -> Floats:
        """All logits at an output, valid until the next evaluation: float32 ``[vocabulary]``."""
        logits: Floats = np.ctypeslib.as_array(self._c.llama_get_logits_ith(self._context, output), (self._vocabulary,))
        return logits

    def state(self, output: int) -> Floats:
        """The hidden state at an output of ``decode_states``, valid until the next evaluation: float32 ``[hidden]``."""
        state: Floats = np.ctypeslib.as_array(self._c.llama_get_embeddings_ith(self._context, output), (self.hidden,))
        return state

    def decode(self, work: Sequence[Work], reads: int) -> None:
        """Evaluate token ids or vectors.

        Args:
            work: No entry has empty tokens.
            reads: How many of the last tokens of each entry are outputs; ``outputs`` holds their indices afterwards.
        """
        batch: list[BatchToken] = []
        self.outputs = []
        for sequence, start, tokens in work:
            first_output = len(tokens) - reads
            batch += (BatchToken(token, start + n, [sequence], n >= first_output) for n, token in enumerate(tokens))
            self.outputs += range(len(batch) - min(reads, len(tokens)), len(batch))
        self.evaluate(0, batch)

    def decode_states(self, work: Sequence[Work]) -> None:
        """Like ``decode`` with one output each, where the hidden state can be read too."""
        # In embeddings mode every token is an output and pays for the LM head, so only the last ones go through it,
        # unless it is small, without the items: a second evaluation reads all the weights again.
        whole = self._trunk and self._vocabulary <= SMALL_HEAD
        if not whole and any(len(tokens) > 1 for _, _, tokens in work):
            self.decode([(s, start, tokens[:-1]) for s, start, tokens in work if len(tokens) > 1], reads=0)
            work = [(s, start + len(tokens) - 1, tokens[-1:]) for s, start, tokens in work]
        self._c.llama_set_embeddings(self._context, True)
        try:
            self.decode(work, reads=1)
        finally:
            self._c.llama_set_embeddings(self._context, False)

    def evaluate(self, start: int, tokens: Sequence[BatchToken]) -> None:
        """Evaluate a batch; positions are counted from ``start``.

        Raises:
            DelrecError: llama.cpp reports an error.
        """
        self._follow_load()
        use_vectors = any(not isinstance(entry.token, int) or entry.token >= self._vocabulary for entry in tokens)
        max_sequences = max(len(entry.sequences) for entry in tokens)
        batch = self._c.llama_batch_init(len(tokens), self.hidden if use_vectors else 0, max_sequences)
        try:
            batch.n_tokens = len(tokens)
            for index, entry in enumerate(tokens):
                if use_vectors:
                    token = entry.token
                    row = (self.rows.row(token) if isinstance(token, int) else token) * self._embedding_scale
                    target = ctypes.addressof(batch.embd.contents) + index * self.hidden * 4
                    ctypes.memmove(target, row.ctypes.data, self.hidden * 4)
                else:
                    batch.token[index] = entry.token
                batch.pos[index] = start + entry.position
                batch.n_seq_id[index] = len(entry.sequences)
                for n, sequence in enumerate(entry.sequences):
                    batch.seq_id[index][n] = sequence
                batch.logits[index] = entry.is_output
            if self._forked:
                code = self._forked.submit(self._c.llama_decode, self._context, batch).result()
            else:
                code = self._c.llama_decode(self._context, batch)
        finally:
            self._c.llama_batch_free(batch)
        if code != 0:
            raise DelrecError(
                f"llama.cpp could not evaluate the request (code {code})", "free some memory and try again"
            )

    def _follow_load(self) -> None:
        """Compute with as many threads as there are free cores, unless their number is fixed."""
        if self._free_cores is None or (threads := self._free_cores.count()) == self._threads:
            return
        self._c.llama_set_n_threads(self._context, threads, threads)
        self._threads = threads
