"""An engine of another package, and the bundle over which every engine has to keep the contract."""

import threading

import gguf
import numpy as np
import torch

from delrec_lite.config import FinetuneSection
from delrec_lite.errors import BundleError, DelrecError, UsageError
from delrec_lite.machine import threads_for
from delrec_lite.runtime.engines.base import Evaluation
from delrec_lite.runtime.engines.factory import EngineKind
from delrec_lite.runtime.prompting.encoder import PromptEncoder
from delrec_lite.training.adapters import add_adapter
from tests.conftest import export_tiny
from tests.tiny import make_model


def scrambled(folder):
    """The tiny model, in which adapter, soft prompt and item vectors all matter."""
    model_parts = make_model(folder)
    add_adapter(model_parts[0], FinetuneSection(rank=4, alpha=8), steps=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in model_parts[0].named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        for p in (model_parts[0].soft, model_parts[0].offset_in, model_parts[0].offset_out):
            p.add_(torch.randn_like(p) * 0.3)
    return model_parts


def both_formats(base_folder, target, model):
    """A bundle with a GGUF and a float32 ONNX file of the same model."""
    return export_tiny(base_folder, target, "f16", model, formats="both", onnx_quant="fp32", prune_vocab=True).path


def matrix(bundle, name):
    """A tensor of a bundle's GGUF file in float32: ``token_embd.weight`` or ``output.weight``."""
    tensor = next(t for t in gguf.GGUFReader(bundle.model_path).tensors if t.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


class DecayEngine:
    """A small engine that keeps the contract: a state is the last input row plus half of the state before it.

    It reads only the input and output rows of the model; its recommendations are not useful.
    """

    def __init__(self, bundle, threads=None):
        threads_for(threads)
        self._prompt, self._items = bundle.prompt, bundle.trained
        self._rows, self._head = matrix(bundle, "token_embd.weight"), matrix(bundle, "output.weight")
        hidden = self._rows.shape[1]
        self._encoder = PromptEncoder(bundle.prompts, bundle.prompt.max_history, hidden)
        self._start = np.zeros(hidden, np.float32)
        for token in bundle.prompt.prefix:
            self._start = self._next(self._start, token)
        self._lock, self._open = threading.Lock(), True
        self._sessions = {}

    def scores(self, requests):
        return self.evaluate(requests).scores

    def hidden_states(self, requests):
        return self.evaluate(requests).states

    def evaluate(self, requests, session=None):
        work = [self._encoder.history(request) for request in requests]
        with self._lock:
            if not self._open:
                raise DelrecError("this recommender is closed", "load the bundle again")
            steps = [self._walk(tokens, session) for tokens in work]
        states = np.array([state for state, _ in steps], np.float32).reshape(len(steps), len(self._start))
        base = self._prompt.item_token_base
        scores = states @ self._head[base : base + self._items].T
        return Evaluation(scores, states, sum(computed for _, computed in steps))

    def score_session(self, session, request):
        scores, _, computed = self.evaluate([request], session)
        return scores[0], computed

    def score_candidates(self, request, candidates, session=None):
        raise UsageError("this engine ranks the whole catalogue", "pick the candidates out of its scores")

    def forget(self, session):
        with self._lock:
            self._sessions.pop(session, None)

    def count_tokens(self, request, candidates=()):
        return self._encoder.count_tokens(request, candidates)

    def token_vector(self, tokens):
        if not all(0 <= token < self._prompt.text_tokens for token in tokens):
            raise BundleError("no such token", "export the run again")
        return self._rows[list(tokens)].mean(0)

    def item_vectors(self, items):
        return self._rows[[self._prompt.item_token_base + item for item in items]]

    def close(self):
        with self._lock:
            self._open = False

    def _walk(self, tokens, session):
        """The state behind some tokens, and how many of them were read: a session keeps the states of its last."""
        names = [token if isinstance(token, int) else token.tobytes() for token in tokens]
        before, states = self._sessions.get(session, ([], [])) if session is not None else ([], [])
        pairs = list(zip(before, names[:-1], strict=False))
        reused = next((n for n, (old, new) in enumerate(pairs) if old != new), len(pairs))
        states = states[:reused]
        for token in tokens[reused:]:
            states.append(self._next(states[-1] if states else self._start, token))
        if session is not None:
            self._sessions[session] = names, list(states)
        return states[-1], len(tokens) - reused

    def _next(self, state, token):
        return state / 2 + (self._rows[token] if isinstance(token, int) else token)


DECAY = EngineKind("decay", "gguf", "tests.engines:DecayEngine")
