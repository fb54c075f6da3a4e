"""What every engine does: histories in, scores of the catalogue out; the prompt's prefix is its own affair."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from delrec_lite.data.types import Floats
from delrec_lite.runtime.prompting.encoder import Entry


class Evaluation(NamedTuple):
    """What one pass over some histories gives.

    Attributes:
        scores: Of the whole catalogue, float32 ``[requests, items]``.
        states: The last hidden state of each history, after the final norm: float32 ``[requests, hidden]``.
        tokens: How many were evaluated for it.
    """

    scores: Floats
    states: Floats
    tokens: int


class Engine(Protocol):
    """Evaluates the fixed prefix once, then answers requests, one or many at a time; safe under threads.

    A request is a history, oldest first, not empty; its newest ``max_history`` entries are read, as far as they fit.
    """

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """Scores of the whole catalogue after each history: float32 ``[requests, items]``.

        Raises:
            UsageError: An empty history, an entry that is no item and no vector of the model's width, or a bundle that
                ranks candidates alone.
        """

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """Scores after one history, going on from what this session's last request left.

        Entries that the last request began with too are not evaluated again. Sessions are bounded: the one not
        used for longest makes room, and costs its whole history when it comes back.

        Args:
            session: Names the user.
            request: The whole history, as in ``scores``.

        Returns:
            float32 ``[items]``, and how many tokens were evaluated.

        Raises:
            UsageError: As in ``scores``.
        """

    def score_candidates(
        self, request: Sequence[Entry], candidates: Sequence[Entry], session: str | None = None
    ) -> tuple[Floats, int]:
        """Scores of candidates after one history: for a bundle that ranks those alone, and instead of ``scores``.

        Args:
            request: As in ``scores``.
            candidates: What is ranked, at least one.
            session: As in ``score_session``; None: nothing is kept.

        Returns:
            float32 ``[candidates]``, and how many tokens were evaluated.

        Raises:
            UsageError: As in ``scores``; or this bundle ranks the whole catalogue.
            ConfigError: More candidates than the prompt has room for.
        """

    def forget(self, session: str) -> None:
        """Drop what a session left; a session that is not there is no error."""

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """How many entries of a history are read, the newest, and how many tokens a request takes behind the prefix.

        Raises:
            UsageError: As in ``scores``.
        """

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """Scores and hidden states of one and the same evaluation.

        For items outside the catalogue, which have no score of their own: their output vectors times the state.

        Args:
            requests: As in ``scores``.
            session: As in ``score_session``; then there is one request.

        Raises:
            UsageError: As in ``scores``.
        """

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """The states of ``evaluate`` alone.

        Raises:
            UsageError: As in ``scores``.
        """

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """The mean input row of text tokens: float32 ``[hidden]``."""

    def close(self) -> None:
        """Free the model; a second call does nothing."""
