"""`Worker`: one thread that owns the model, with a bounded queue of requests; its bundle can be replaced."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.recommender import Recommender

Work = Callable[[Recommender], Any]


class QueueFull(DelrecError):
    """The queue is full."""


class DeadlineExceeded(DelrecError):
    """The answer would come after its deadline."""


@dataclass(frozen=True)
class _Job:
    work: Work
    deadline: float
    future: "Future[Any]"


class Worker:
    """Answers one request at a time, in the order they came.

    Args:
        recommender: Loaded; closed by ``close``.
        waiting: Most requests in the queue; a request whose future is cancelled frees its place.
        seconds: A request that has not started within this time is refused.
    """

    def __init__(self, recommender: Recommender, waiting: int = 64, seconds: float = 10.0) -> None:
        self._recommender = recommender
        self.seconds = seconds
        self._capacity = waiting
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="delrec-model", daemon=True)
        self._thread.start()

    @property
    def recommender(self) -> Recommender:
        """The current recommender, for uses without the model: its catalogue, its matcher."""
        return self._recommender

    def waiting(self) -> int:
        """Requests in the queue whose callers still wait."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    def ask(self, work: Work) -> "Future[Any]":
        """Queue some work.

        Raises:
            QueueFull: The queue is full, or the worker is closing.
        """
        job = _Job(work, time.monotonic() + self.seconds, Future())
        with self._changed:
            if self._closing:
                raise QueueFull("the server is stopping", "try again in a moment")
            if len(self._jobs) >= self._capacity:
                self._jobs = deque(queued for queued in self._jobs if not queued.future.cancelled())
            if len(self._jobs) >= self._capacity:
                raise QueueFull("too many requests are waiting", "try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def replace(self, recommender: Recommender) -> None:
        """Use a newer recommender from the next request on, and close the old one."""
        done: Future[Any] = Future()

        def swap(old: Recommender) -> None:
            self._recommender = recommender
            old.close()

        with self._changed:
            if self._closing:
                raise QueueFull("the server is stopping", "start it again with the newer bundle")
            self._jobs.append(_Job(swap, float("inf"), done))
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
        """The oldest job; None when closing and all are done."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            return self._jobs.popleft()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue  # the caller has disconnected
            if time.monotonic() > job.deadline:
                job.future.set_exception(
                    DeadlineExceeded("no answer in time", "send a smaller request, or try again in a moment")
                )
                continue
            try:
                job.future.set_result(job.work(self._recommender))
            except BaseException as error:  # the thread must not end
                job.future.set_exception(error)
