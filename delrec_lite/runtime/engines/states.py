"""What an engine offers for an item index: hidden states without the catalogue's scores, and scores of some items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from delrec_lite.data.types import Floats, Ints
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.prompting.encoder import Entry


class StatesEvaluation(NamedTuple):
    """Hidden states of several requests.

    Attributes:
        states: The last hidden states, after the final norm: float32 ``[requests, hidden]``.
        tokens: How many tokens were evaluated for each request.
    """

    states: Floats
    tokens: list[int]


class StateEngine(Engine, Protocol):
    """An engine that computes no scores of the catalogue unless they are asked for."""

    def evaluate_states(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> StatesEvaluation:
        """Hidden states after several histories; arguments and errors as of ``GroupEngine.evaluate_group``."""

    def scores_of(self, state: Floats, items: Ints) -> Floats:
        """The scores of some items, as ``scores`` gives them up to the order of sums: float32 ``[n]``.

        Args:
            state: Hidden state of the request, float32 ``[hidden]``.
            items: Indices.
        """


@dataclass(frozen=True)
class Refinement:
    """What makes the best of some coarse scores exact.

    Attributes:
        candidates: So many of the best by their coarse scores hold the best ten.
        missing: What the coarse scores of some items lack: int64 ``[n]`` to float32 ``[n]``.
    """

    candidates: int
    missing: Callable[[Ints], Floats]


class CoarseEvaluation(NamedTuple):
    """Coarse scores of several requests.

    Attributes:
        scores: Of the whole catalogue, float32 ``[requests, items]``; the caller may change them.
        refinements: One for each request.
        states: As in ``StatesEvaluation``.
        tokens: As in ``StatesEvaluation``.
        milliseconds: That the scores took, without the states.
    """

    scores: Floats
    refinements: list[Refinement]
    states: Floats
    tokens: list[int]
    milliseconds: float


class CoarseEngine(Engine, Protocol):
    """An engine with an item index."""

    def evaluate_coarse(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> CoarseEvaluation:
        """Coarse scores after several histories; arguments and errors as of ``GroupEngine.evaluate_group``."""


def coarse_engine(engine: Engine) -> CoarseEngine | None:
    """The engine as one with an item index; None where it has none."""
    return cast(CoarseEngine, engine) if getattr(engine, "is_coarse", False) else None
