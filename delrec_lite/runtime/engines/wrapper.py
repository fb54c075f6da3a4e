"""`EngineWrapper`: an engine that passes every call to another, for subclasses that change some of the calls."""

from collections.abc import Sequence
from typing import cast

from delrec_lite.data.types import Floats, Ints
from delrec_lite.runtime.engines.base import Engine, Evaluation
from delrec_lite.runtime.engines.groups import GroupEvaluation, evaluate_group
from delrec_lite.runtime.engines.states import (
    CoarseEngine,
    CoarseEvaluation,
    StateEngine,
    StatesEvaluation,
    coarse_engine,
)
from delrec_lite.runtime.prompting.encoder import Entry


class EngineWrapper:
    """Passes every call of ``Engine`` to another engine.

    Args:
        engine: The engine that is called.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def translated(self, request: Sequence[Entry]) -> Sequence[Entry]:
        """The request as the wrapped engine reads it; here unchanged."""
        return request

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``."""
        return self.engine.scores([self.translated(request) for request in requests])

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        return self.engine.score_session(session, self.translated(request))

    def score_candidates(
        self, request: Sequence[Entry], candidates: Sequence[Entry], session: str | None = None
    ) -> tuple[Floats, int]:
        """See ``Engine.score_candidates``."""
        return self.engine.score_candidates(self.translated(request), self.translated(candidates), session)

    def forget(self, session: str) -> None:
        """See ``Engine.forget``."""
        self.engine.forget(session)

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """See ``Engine.count_tokens``."""
        return self.engine.count_tokens(self.translated(request), self.translated(candidates))

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        return self.engine.evaluate([self.translated(request) for request in requests], session)

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``."""
        return evaluate_group(self.engine, [self.translated(request) for request in requests], sessions, states)

    @property
    def is_coarse(self) -> bool:
        """Whether the engine has an item index."""
        return coarse_engine(self.engine) is not None

    def evaluate_coarse(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> CoarseEvaluation:
        """See ``CoarseEngine``; only where ``is_coarse``."""
        coarse = cast(CoarseEngine, self.engine)
        return coarse.evaluate_coarse([self.translated(request) for request in requests], sessions)

    def evaluate_states(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> StatesEvaluation:
        """See ``StateEngine``; only where the engine is one."""
        states = cast(StateEngine, self.engine)
        return states.evaluate_states([self.translated(request) for request in requests], sessions)

    def scores_of(self, state: Floats, items: Ints) -> Floats:
        """See ``StateEngine``; only where the engine is one."""
        return cast(StateEngine, self.engine).scores_of(state, items)

    def hidden_states(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.hidden_states``."""
        return self.engine.hidden_states([self.translated(request) for request in requests])

    def token_vector(self, tokens: Sequence[int]) -> Floats:
        """See ``Engine.token_vector``."""
        return self.engine.token_vector(tokens)

    def item_vectors(self, items: Sequence[int]) -> Floats:
        """See ``Engine.item_vectors``."""
        return self.engine.item_vectors(items)

    def close(self) -> None:
        """See ``Engine.close``."""
        self.engine.close()
