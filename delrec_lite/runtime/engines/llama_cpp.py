"""The llama.cpp engine: the prefix is evaluated once, and logits are computed only where they are read."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.machine import threads_for
from delrec_lite.prompts.verbalizer import Answer, Candidate
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Evaluation
from delrec_lite.runtime.engines.groups import GroupEvaluation
from delrec_lite.runtime.engines.llama_batch import BATCH_TOKENS, SEQUENCES, group_rows, merge_histories
from delrec_lite.runtime.engines.llama_context import LlamaContext
from delrec_lite.runtime.engines.llama_group import LlamaGroup
from delrec_lite.runtime.engines.sessions import Sessions, count_shared, keys_of
from delrec_lite.runtime.prompting.encoder import Entry, PromptEncoder, Token

# Users whose last history stays in the cache, and the most tokens that they hold together. A cell of SmolLM2-135M
# takes 23 kB, so 16 histories of 50 items take 18 MB; of titles, ten tokens each, four histories of 50 fit.
SESSIONS = 16
SESSION_TOKENS = 2048


class LlamaEngine:
    """See ``Engine``. The scores are the logits of the item tokens: the GGUF's output rows are the verbalizer's.

    Candidates are scored by the bundle's verbalizer, from logits and log-probabilities.

    llama.cpp computes the logits of every output whether or not they are read, and in its embeddings mode every token
    of a batch is an output; so logits at the last item alone cost least.

    Args:
        bundle: With a GGUF file.
        threads: Default: the cores allowed, or as many of them as other programs leave free.

    Raises:
        BundleError: llama.cpp does not load the file, or it does not fit catalogue and prompt.
        MissingPackageError: llama-cpp-python is not installed.
        UsageError: See ``threads_for``.
    """

    trunk = False

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        count = None if threads is None else threads_for(threads)
        self._lock = threading.Lock()
        self._prompt, self._items = bundle.prompt, bundle.trained
        self._start, self._titles = len(bundle.prompt.prefix), bundle.prompts.titles
        self._llama = LlamaContext(bundle, self.trunk)
        self.hidden = self._llama.hidden
        try:
            self._encoder = PromptEncoder(bundle.prompts, bundle.prompt.max_history, self.hidden)
            longest = self._encoder.longest
            session_tokens = min(SESSIONS * longest, max(SESSION_TOKENS, longest))
            self._sessions = Sessions(SESSIONS, self._clear_slot, session_tokens)
            self._llama.open(count, longest, session_tokens, 1 + SEQUENCES + SESSIONS)
            self._group = LlamaGroup(self._llama, self._sessions, self._start, _sequence)
        except BaseException:
            self.close()
            raise

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        scores = np.empty((len(requests), self._items), np.float32)
        for rows in self._batches(requests):
            for output, row in zip(self._llama.outputs, rows, strict=True):
                scores[row] = self._scores(output)
        return scores

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        tokens = self._encoder.history(request)
        with self._lock:
            self._llama.check_open()
            _, reused = self._continue_session(session, tokens)
            return self._scores(self._llama.outputs[0]).copy(), len(tokens) - reused

    def score_candidates(
        self, request: Sequence[Entry], candidates: Sequence[Entry], session: str | None = None
    ) -> tuple[Floats, int]:
        """See ``Engine.score_candidates``."""
        tokens, choices, candidate_tokens = self._encoder.question(request, candidates)
        end = self._start + len(tokens)
        with self._lock:
            self._llama.check_open()
            if session is not None:
                sequence, reused = self._continue_session(session, tokens)
                scores = self._candidate_scores(sequence, end, choices)
                return scores, len(tokens) - reused + candidate_tokens
            try:
                self._llama.copy_sequence(0, 1)
                self._llama.decode([(1, self._start, tokens)], reads=1)
                return self._candidate_scores(1, end, choices), len(tokens) + candidate_tokens
            finally:
                self._llama.clear_sequence(1)

    def _candidate_scores(self, sequence: int, end: int, candidates: Sequence[Candidate]) -> Floats:
        """Scores of candidates after a question that was just evaluated; ``end`` is the position behind it."""
        logits = self._llama.logits(self._llama.outputs[0]).copy()  # the next decode overwrites them
        answer = Answer(logits, lambda texts: self._log_likelihoods(sequence, end, logits, texts))
        return self._prompt.format.verbalizer_kind.score(answer, candidates, self._prompt.pieces)

    def _log_likelihoods(self, sequence: int, end: int, logits: Floats, texts: Sequence[Sequence[int]]) -> Floats:
        """Log-probability of each text after the question, whose cells all texts share."""
        scores = self._log_probabilities(logits)[[text[0] for text in texts]]
        longer = [n for n, text in enumerate(texts) if len(text) > 1]  # a text's last token need not be evaluated
        for group in group_rows([len(texts[n]) - 1 for n in longer], SEQUENCES - 1):
            group_texts = [texts[longer[n]] for n in group]
            try:
                work = []
                for target, text in enumerate(group_texts, 2):
                    self._llama.copy_sequence(sequence, target)
                    work.append((target, end, text[:-1]))
                self._llama.decode(work, reads=BATCH_TOKENS)
                outputs = iter(self._llama.outputs)
                for n, text in zip(group, group_texts, strict=True):
                    logs = (self._log_probabilities(self._llama.logits(next(outputs)))[token] for token in text[1:])
                    scores[longer[n]] += sum(logs)
            finally:
                for target in range(2, len(group_texts) + 2):
                    self._llama.clear_sequence(target)
        return scores

    def _log_probabilities(self, logits: Floats) -> Floats:
        """Of the text tokens alone, as in training: soft prompt and items are no text."""
        logits = logits[: self._prompt.text_tokens]
        top = logits.max()
        logs: Floats = logits - (top + np.log(np.exp(logits - top).sum()))
        return logs

    def _continue_session(self, session: str, tokens: Sequence[Token], states: bool = False) -> tuple[int, int]:
        """Evaluate the tokens that a session does not hold yet; its sequence, and how many of the tokens were reused.

        With ``states`` the hidden state can be read too.
        """
        keys = keys_of(tokens)
        cached = self._sessions.take(session, len(tokens))
        sequence = _sequence(cached.slot)
        reused = count_shared(cached.entries, keys)
        try:
            if reused:
                self._llama.clear_sequence(sequence, self._start + reused)
            else:
                self._llama.clear_sequence(sequence)
                self._llama.copy_sequence(0, sequence)
            work = [(sequence, self._start + reused, tokens[reused:])]
            if states:
                self._llama.decode_states(work)
            else:
                self._llama.decode(work, reads=1)
        except BaseException:
            self._sessions.drop(session)
            raise
        cached.entries = keys
        return sequence, reused

    def forget(self, session: str) -> None:
        """See ``Engine.forget``."""
        with self._lock:
            if self._llama.is_open:
                self._sessions.drop(session)

    def _clear_slot(self, slot: int) -> None:
        self._llama.clear_sequence(_sequence(slot))

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """See ``Engine.count_tokens``."""
        return self._encoder.count_tokens(request, candidates)

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        if session is not None:
            tokens = self._encoder.history(requests[0])
            with self._lock:
                self._llama.check_open()
                _, reused = self._continue_session(session, tokens, states=True)
                output = self._llama.outputs[0]
                scores, states = self._scores(output)[None].copy(), self._llama.state(output)[None].copy()
            return Evaluation(scores, states, len(tokens) - reused)
        scores = np.empty((len(requests), self._items), np.float32)
        states = np.empty((len(requests), self.hidden), np.float32)
        for rows in self._batches(requests, states=True):
            for output, row in zip(self._llama.outputs, rows, strict=True):
                scores[row], states[row] = self._scores(output), self._llama.state(output)
        return Evaluation(scores, states, sum(self.count_tokens(request)[1] for request in requests))

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``: one decode for the tokens of all requests, as many as fit."""
        histories = [self._encoder.history(request) for request in requests]
        scores = np.empty((len(requests), self._items), np.float32)
        hidden = np.empty((len(requests), self.hidden if states else 0), np.float32)
        tokens = [0] * len(requests)
        with self._lock:
            self._llama.check_open()
            for rows, counts in self._group.evaluate(histories, sessions, states):
                for output, row, count in zip(self._llama.outputs, rows, counts, strict=True):
                    scores[row], tokens[row] = self._scores(output), count
                    if states:
                        hidden[row] = self._llama.state(output)
        return GroupEvaluation(scores, hidden, tokens)

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.hidden_states``."""
        return self.evaluate(requests).states

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """See ``Engine.token_vector``."""
        return self._llama.rows.mean(tokens)

    def item_vectors(self, items: Sequence[int]) -> Floats:
        """See ``Engine.item_vectors``."""
        if self._prompt.format.history_format.item_rows:
            return self._llama.rows.rows([self._prompt.item_token_base + item for item in items])
        titles = [self._llama.rows.mean(self._titles[item]) for item in items]
        return np.stack(titles) if titles else np.empty((0, self.hidden), np.float32)

    def close(self) -> None:
        """See ``Engine.close``; waits for a request that is being answered."""
        with self._lock:
            self._llama.close()

    def _scores(self, output: int) -> Floats:
        """The items' scores at an output, valid until the next decode."""
        base = self._prompt.item_token_base
        return self._llama.logits(output)[base : base + self._items]

    def _batches(self, requests: Sequence[Sequence[Entry]], states: bool = False) -> Iterator[list[int]]:
        """Evaluate requests in groups and yield each group's rows.

        Until the next group is asked for, the outputs can be read and no other thread evaluates: the n-th of
        ``outputs`` belongs to the n-th row. With ``states`` hidden states can be read beside the logits.
        """
        histories = [self._encoder.history(request) for request in requests]
        for rows in group_rows([len(tokens) for tokens in histories]):
            with self._lock:
                self._llama.check_open()
                try:
                    self._evaluate_group([histories[row] for row in rows], states)
                    yield rows
                finally:
                    for sequence in range(1, len(rows) + 1):
                        self._llama.clear_sequence(sequence)

    def _evaluate_group(self, histories: Sequence[list[Token]], states: bool) -> None:
        """Evaluate a group's histories, each behind the prefix in a sequence of its own."""
        for sequence in range(1, len(histories) + 1):
            self._llama.copy_sequence(0, sequence)
        if states:
            self._llama.decode_states([(n, self._start, tokens) for n, tokens in enumerate(histories, 1)])
            return
        batch, self._llama.outputs = merge_histories(histories)
        self._llama.evaluate(self._start, batch)


def _sequence(slot: int) -> int:
    """The sequence of a session's slot; 0 is the prefix's, the next ``SEQUENCES`` are those of a batch."""
    return 1 + SEQUENCES + slot
