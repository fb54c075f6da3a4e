"""A request in the worker's queue: its work step by step, its deadline, and the future answer."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.prepared import Prepared
from delrec_lite.runtime.recommender import Recommender

# The steps of a request: each yields how much of its size is left, or a prepared request, for which the worker sends
# back what was evaluated; the answer is returned.
Steps = Generator[int | Prepared, Any, Any]
# Gives the answer, or the steps to it.
Work = Callable[[Recommender], Any]


class DeadlineExceeded(DelrecError):
    """The answer would come after its deadline."""


@dataclass(eq=False)
class Job:
    """Some work that was asked for.

    Attributes:
        work: Called with the recommender.
        deadline: When nobody waits for the answer any more, by the monotonic clock.
        future: Of the answer.
        size: How many histories it evaluates, or a similar measure of its steps.
        joins: Whether it is evaluated together with others that wait.
        remaining: Of its size.
        recommender: The one that its first step used.
        steps: Once it has begun.
        prepared: What it waits for the evaluation of.
        on_begin: Called before its first step.
    """

    work: Work
    deadline: float
    future: "Future[Any]"
    size: int = 1
    joins: bool = False
    remaining: int = 1
    recommender: Recommender | None = None
    steps: Steps | None = None
    prepared: Prepared | None = None
    on_begin: Callable[[], None] = lambda: None

    def advance(self, current: Recommender, evaluated: Any = None) -> bool:
        """Do the next step; whether it has ended: with an answer, an error, past its deadline, or nobody waits.

        Args:
            current: The recommender of requests that start now.
            evaluated: What it waited for.
        """
        if self.future.cancelled():
            return True
        if evaluated is None and time.monotonic() > self.deadline:
            self.fail(self._late())
            return True
        try:
            ended, answer = self._step(current, evaluated)
        except BaseException as error:  # the worker's thread must not end
            self.fail(error)
            return True
        if ended and self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)
        return ended

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _step(self, current: Recommender, evaluated: Any) -> tuple[bool, Any]:
        """Whether it was the last step, and the answer."""
        if self.recommender is None:
            self.on_begin()
            self.recommender = current
            answer = self.work(current)
            if not isinstance(answer, GeneratorType):
                return True, answer
            self.steps = answer
        assert self.steps is not None
        self.prepared = None
        try:
            result = self.steps.send(evaluated)
        except StopIteration as end:
            return True, end.value
        if isinstance(result, int):
            self.remaining = result
        else:
            self.prepared = result
        return False, None

    def _late(self) -> DeadlineExceeded:
        if self.size == 1 or self.steps is None:
            return DeadlineExceeded("no answer in time", "send a smaller request, or try again in a moment")
        share = max(0, self.size - self.remaining) / self.size
        return DeadlineExceeded(
            f"only {share:.0%} of the work was done in time",
            "send a smaller request, or start the server with a longer --deadline",
        )
