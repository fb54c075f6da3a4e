"""`Worker`: one thread that owns the model, with a bounded queue of requests; its bundle can be replaced.

A long request is a generator: it yields after every step, and then requests that take one step go first. It stops where
its deadline has passed or its caller has disconnected.
"""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from types import GeneratorType
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.pulse import Pulse

# The steps of a long request: each yields how much of its size is left; the answer is returned.
Steps = Generator[int, None, Any]
# Gives the answer, or the steps to it.
Work = Callable[[Recommender], Any]


class QueueFull(DelrecError):
    """The queue is full."""


class DeadlineExceeded(DelrecError):
    """The answer would come after its deadline."""


@dataclass
class _Job:
    work: Work
    deadline: float
    future: "Future[Any]"
    size: int = 1
    remaining: int = 1
    recommender: Recommender | None = None  # the one that its first step used
    steps: Steps | None = None

    def step(self, current: Recommender) -> tuple[bool, Any]:
        """Do the next step; whether it was the last one, and the answer."""
        if self.recommender is None:
            self.recommender = current
            answer = self.work(current)
            if not isinstance(answer, GeneratorType):
                return True, answer
            self.steps = answer
        assert self.steps is not None
        try:
            self.remaining = next(self.steps)
        except StopIteration as end:
            return True, end.value
        return False, None

    def late(self) -> DeadlineExceeded:
        """The error where its deadline has passed."""
        if self.steps is None:
            return DeadlineExceeded("no answer in time", "send a smaller request, or try again in a moment")
        share = max(0, self.size - self.remaining) / self.size
        return DeadlineExceeded(
            f"only {share:.0%} of the work was done in time",
            "send a smaller request, or start the server with a longer --deadline",
        )


class Worker:
    """Answers one request at a time: those of one step in the order they came, between the steps of longer ones.

    While both kinds wait, each gets half of the time; of the longer ones the one with least left to do goes first.

    Args:
        recommender: Loaded; closed by ``close``.
        waiting: Most requests in the queue; a request whose future is cancelled frees its place.
        seconds: A request that is not finished within this time is refused, or stopped after the current step.
    """

    def __init__(self, recommender: Recommender, waiting: int = 64, seconds: float = 10.0) -> None:
        self._recommender = recommender
        self.seconds = seconds
        self.pulse = Pulse()
        self._capacity = waiting
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._replaced: list[Recommender] = []  # still used by requests that began with them
        self._long_lead = 0.0  # seconds that steps of long requests took, less those of requests that waited
        self._thread = threading.Thread(target=self._run, name="delrec-model", daemon=True)
        self._thread.start()

    @property
    def recommender(self) -> Recommender:
        """The current recommender, for uses without the model: its catalogue, its matcher."""
        return self._recommender

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs; after ``close`` it does not."""
        return self._thread.is_alive()

    def waiting(self) -> int:
        """Requests in the queue whose callers still wait."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    def ask(self, work: Work, size: int = 1) -> "Future[Any]":
        """Queue some work.

        Args:
            work: Called with the recommender in the model's thread. It returns the answer or, for long work, a
                generator of ``Steps``, which keeps this recommender until its end.
            size: How many histories it evaluates, or a similar measure of its steps; 1: a short request.

        Returns:
            The future answer; cancelling it stops the work after the current step.

        Raises:
            QueueFull: The queue is full, the worker is closing, or its thread has ended.
        """
        job = _Job(work, time.monotonic() + self.seconds, Future(), size, size)
        job.future.add_done_callback(self.pulse.ended)
        with self._changed:
            if self._closing:
                raise QueueFull("the server is stopping", "try again in a moment")
            if not self.alive:
                raise QueueFull("the model's thread has ended", "start the server again")
            if len(self._jobs) >= self._capacity:
                self._jobs = [queued for queued in self._jobs if not queued.future.cancelled()]
            if len(self._jobs) >= self._capacity:
                raise QueueFull("too many requests are waiting", "try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def replace(self, recommender: Recommender) -> None:
        """Use a newer recommender for the requests that start from now on; close the old one when it is not used.

        Raises:
            QueueFull: The worker is closing; ``recommender`` is not closed.
        """
        done: Future[Any] = Future()

        def swap(old: Recommender) -> None:
            self._recommender = recommender
            self._replaced.append(old)

        with self._changed:
            if self._closing or not self.alive:
                raise QueueFull("the server is stopping", "start it again with the newer bundle")
            self._jobs.append(_Job(swap, inf, done))
            self._changed.notify()
        done.result()

    def close(self) -> None:
        """Answer the queued requests, then free the model; a second call does nothing."""
        with self._changed:
            first, self._closing = not self._closing, True
            self._changed.notify()
        if first:
            self._thread.join()
            self._recommender.close()

    def _next(self) -> _Job | None:
        """Take the job whose turn it is out of the queue; None when closing and all are done."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            short = next((job for job in self._jobs if job.size == 1), None)
            long = min((job for job in self._jobs if job.size > 1), key=lambda job: job.remaining, default=None)
            if short is None or long is None:
                self._long_lead = 0.0
            job = short if short and (long is None or self._long_lead >= 0) else long
            assert job is not None
            self._jobs.remove(job)
            return job

    def _run(self) -> None:
        while (job := self._next()) is not None:
            start = time.monotonic()
            if not job.future.cancelled() and not self._advance(job):
                with self._changed:
                    self._jobs.append(job)
            seconds = time.monotonic() - start
            self._long_lead += seconds if job.size > 1 else -seconds
            self._close_replaced()

    def _advance(self, job: _Job) -> bool:
        """Do a job's next step; whether it has ended."""
        if time.monotonic() > job.deadline:
            _finish(job, error=job.late())
            return True
        if job.recommender is None and job.deadline < inf:
            self.pulse.began(max(0.0, time.monotonic() - job.deadline + self.seconds))
        try:
            ended, answer = job.step(self._recommender)
        except BaseException as error:  # the thread must not end
            _finish(job, error=error)
            return True
        if ended:
            _finish(job, answer)
        return ended

    def _close_replaced(self) -> None:
        """Close the replaced recommenders that no started request uses."""
        if not self._replaced:
            return
        with self._changed:
            used = [job.recommender for job in self._jobs]
        for old in [old for old in self._replaced if not any(old is recommender for recommender in used)]:
            self._replaced.remove(old)
            old.close()


def _finish(job: _Job, answer: Any = None, error: BaseException | None = None) -> None:
    if not job.future.set_running_or_notify_cancel():
        return  # the caller has disconnected
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(answer)
