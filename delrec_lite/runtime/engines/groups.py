"""Requests that are evaluated together, sessions among them: by one call of an engine that has one for them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.prompting.encoder import Entry


class GroupEvaluation(NamedTuple):
    """The result for several requests.

    Attributes:
        scores: Of the whole catalogue, float32 ``[requests, items]``.
        states: The last hidden states as in ``Evaluation``, or ``[requests, 0]`` where they were not asked for.
        tokens: How many tokens were evaluated for each request.
    """

    scores: Floats
    states: Floats
    tokens: list[int]


@runtime_checkable
class GroupEngine(Protocol):
    """What an engine may offer beside ``Engine``: several sessions in one evaluation."""

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """Scores after several histories, as ``scores`` and ``score_session`` give them, up to rounding.

        Args:
            requests: As in ``Engine.scores``.
            sessions: The session that each request continues, as in ``Engine.score_session``; None: none. The same
                session may come twice; then the later request continues the earlier one.
            states: Hidden states are wanted too.

        Raises:
            UsageError: As in ``Engine.scores``; then no request was answered.
        """


def evaluate_group(
    engine: Engine, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
) -> GroupEvaluation:
    """See ``GroupEngine.evaluate_group``; with an engine that has no such call, sessions are evaluated one by one."""
    if isinstance(engine, GroupEngine):
        return engine.evaluate_group(requests, sessions, states)
    tokens = [engine.count_tokens(request)[1] for request in requests]
    scores: list[Floats] = [np.empty(0, np.float32)] * len(requests)
    hidden = list(scores)
    fresh = [row for row, session in enumerate(sessions) if session is None]
    if fresh and states:
        results = engine.evaluate([requests[row] for row in fresh])
        for row, values, state in zip(fresh, results.scores, results.states, strict=True):
            scores[row], hidden[row] = values, state
    elif fresh:
        for row, values in zip(fresh, engine.scores([requests[row] for row in fresh]), strict=True):
            scores[row] = values
    for row, session in enumerate(sessions):
        if session is not None and states:
            evaluation = engine.evaluate([requests[row]], session)
            scores[row], hidden[row], tokens[row] = evaluation.scores[0], evaluation.states[0], evaluation.tokens
        elif session is not None:
            scores[row], tokens[row] = engine.score_session(session, requests[row])
    return GroupEvaluation(np.stack(scores), np.stack(hidden), tokens)
