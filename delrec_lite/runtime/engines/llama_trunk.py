"""llama.cpp without the items: it gives hidden states, and the items are scored by their rows in the GGUF file."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Evaluation
from delrec_lite.runtime.engines.groups import GroupEvaluation
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from delrec_lite.runtime.engines.states import StatesEvaluation
from delrec_lite.runtime.gguf.item_head import ItemHead
from delrec_lite.runtime.prompting.encoder import Entry


class LlamaTrunkEngine(LlamaEngine):
    """See ``Engine`` and ``StateEngine``. Scores of all items are the same as ``LlamaEngine``'s, but slow.

    Attributes:
        head: The items' rows, and scores by them.

    Arguments and errors as of ``LlamaEngine``; also:

    Raises:
        MissingPackageError: The package gguf is not installed.
    """

    trunk = True

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle, threads)
        try:
            base = bundle.prompt.item_token_base
            self.head = ItemHead(bundle.model_path, self._llama.header, base, bundle.trained)
        except BaseException:
            self.close()
            raise

    def evaluate_states(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> StatesEvaluation:
        """See ``StateEngine``."""
        histories = [self._encoder.history(request) for request in requests]
        states = np.empty((len(requests), self.hidden), np.float32)
        tokens = [0] * len(requests)
        with self._lock:
            self._llama.check_open()
            for rows, counts in self._group.evaluate(histories, sessions, states=True):
                for output, row, count in zip(self._llama.outputs, rows, counts, strict=True):
                    states[row], tokens[row] = self._llama.state(output), count
        return StatesEvaluation(states, tokens)

    def scores_of(self, state: Floats, items: Ints) -> Floats:
        """See ``StateEngine``."""
        return self.head.scores_of(state, items)

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        return self.evaluate(requests).scores

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        scores, _, computed = self.evaluate([request], session)
        return scores[0], computed

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        states, tokens = self.evaluate_states(requests, [session] * len(requests))
        return Evaluation(self.head.scores(states), states, sum(tokens))

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``."""
        hidden, tokens = self.evaluate_states(requests, sessions)
        return GroupEvaluation(self.head.scores(hidden), hidden if states else hidden[:, :0], tokens)

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.hidden_states``."""
        return self.evaluate_states(requests, [None] * len(requests)).states
