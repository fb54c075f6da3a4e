"""The contract of engines: histories in, scores of the catalogue out; each evaluates the prompt's prefix itself."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from delrec_lite.data.types import Floats
from delrec_lite.runtime.prompting.encoder import Entry


class Evaluation(NamedTuple):
    """The result of one pass over some histories.

    Attributes:
        scores: Of the whole catalogue, float32 ``[requests, items]``.
        states: The last hidden state of each history, after the final norm: float32 ``[requests, hidden]``.
        tokens: How many tokens were evaluated.
    """

    scores: Floats
    states: Floats
    tokens: int


class Engine(Protocol):
    """Evaluates the fixed prefix once, then answers requests, one or many at a time; safe under threads.

    A request is a history, oldest first, not empty; its newest ``max_history`` entries are read, or fewer
    where the prompt has no room for them.
    """

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """Scores of the whole catalogue after each history: float32 ``[requests, items]``.

        Raises:
            UsageError: An empty history, an entry that is neither an item nor a vector of the model's width, or a
                bundle that ranks candidates alone.
        """

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """Scores after one history, which continues the last request of this session.

        Entries that both begin with are not evaluated again. The number of sessions is bounded: the least recently used
        one is dropped, and its whole history is evaluated again when it comes back.

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
        """Scores of candidates after one history: instead of ``scores`` where a bundle ranks candidates alone.

        Args:
            request: As in ``scores``.
            candidates: The items to rank, at least one.
            session: As in ``score_session``; None: nothing is cached.

        Returns:
            float32 ``[candidates]``, and how many tokens were evaluated.

        Raises:
            UsageError: As in ``scores``; or this bundle ranks the whole catalogue.
            ConfigError: More candidates than the prompt has room for.
        """

    def forget(self, session: str) -> None:
        """Drop a session's cache; an unknown session is no error."""

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """How many of a history's newest entries are read, and how many tokens a request takes behind the prefix.

        Raises:
            UsageError: As in ``scores``.
        """

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """Scores and hidden states of the same evaluation.

        A hidden state times an output vector is the score of an item outside the catalogue.

        Args:
            requests: As in ``scores``.
            session: As in ``score_session``; then there is one request.

        Raises:
            UsageError: As in ``scores``.
        """

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """The states of ``evaluate``.

        Raises:
            UsageError: As in ``scores``.
        """

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """The mean input row of text tokens: float32 ``[hidden]``."""

    def item_vectors(self, items: Sequence[int]) -> Floats:
        """The rows by which the model reads items of the catalogue: float32 ``[n, hidden]``.

        Where histories are titles: the mean row of each title's tokens.
        """

    def close(self) -> None:
        """Free the model; a second call does nothing."""
