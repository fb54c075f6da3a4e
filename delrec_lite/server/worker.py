"""One thread that owns the model: requests wait for it in a bounded queue, and it can be given a newer bundle."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.recommender import Recommender

Work = Callable[[Recommender], Any]


class Busy(DelrecError):
    """The queue is full."""


class Late(DelrecError):
    """The answer would come after its deadline."""


@dataclass(frozen=True)
class _Job:
    work: Work
    until: float
    future: "Future[Any]"


class Worker:
    """Answers one request at a time, in the order they came.

    Args:
        recommender: Loaded; closed by ``close``.
        waiting: Most requests in the queue.
        seconds: A request that is not begun within so many is not begun at all.
    """

    def __init__(self, recommender: Recommender, waiting: int = 64, seconds: float = 10.0) -> None:
        self._recommender = recommender
        self.seconds = seconds
        self._jobs: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="delrec-model", daemon=True)
        self._thread.start()

    @property
    def recommender(self) -> Recommender:
        """The one that answers; for what needs no model: its catalogue, its matcher."""
        return self._recommender

    def waiting(self) -> int:
        """Requests in the queue."""
        return self._jobs.qsize()

    def ask(self, work: Work) -> "Future[Any]":
        """Queue some work.

        Raises:
            Busy: The queue is full, or the worker is closing.
        """
        job = _Job(work, time.monotonic() + self.seconds, Future())
        if self._closing:
            raise Busy("the server is stopping", "try again in a moment")
        try:
            self._jobs.put_nowait(job)
        except queue.Full as error:
            raise Busy("too many requests are waiting", "try again in a moment") from error
        return job.future

    def replace(self, recommender: Recommender) -> None:
        """Let a newer recommender answer from the next request on, and close the old one."""
        done: Future[Any] = Future()

        def swap(old: Recommender) -> None:
            self._recommender = recommender
            old.close()

        self._jobs.put(_Job(swap, float("inf"), done))
        done.result()

    def close(self) -> None:
        """Answer what waits, then free the model; a second call does nothing."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
            self._thread.join()
            self._recommender.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue  # who asked has gone
            if time.monotonic() > job.until:
                job.future.set_exception(Late("no answer in time", "ask less, or try again in a moment"))
                continue
            try:
                job.future.set_result(job.work(self._recommender))
            except BaseException as error:  # the thread must live on
                job.future.set_exception(error)
