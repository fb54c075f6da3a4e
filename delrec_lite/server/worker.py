"""`Worker`: one thread that owns the model, with a bounded queue of requests; its bundle can be replaced.

Requests that wait are evaluated together. A long request is a generator: it yields after every step, and then requests
that take one step go first. It stops where its deadline has passed or its caller has disconnected.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.engines.llama_batch import SEQUENCES
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.jobs import DeadlineExceeded, Job, Steps, Work
from delrec_lite.server.pulse import Pulse

__all__ = ["DeadlineExceeded", "QueueFull", "Steps", "Work", "Worker"]


class QueueFull(DelrecError):
    """The queue is full."""


class Worker:
    """Answers requests of one step in the order they came, between the steps of longer ones.

    Whenever the model is free, the requests for one history that wait are evaluated together; it never waits for more.
    While both kinds wait, each gets half of the time; of the longer ones the one with least left to do goes first.

    Attributes:
        seconds: As given.
        pulse: What its thread did last.
        on_group: Called with the number of requests of each evaluation.

    Args:
        recommender: Loaded; closed by ``close``.
        waiting: Most requests in the queue; a request whose future is cancelled frees its place.
        seconds: A request that is not finished within this time is refused, or stopped after the current step.
        together: Most requests that are evaluated together; 1: each alone.
    """

    def __init__(
        self, recommender: Recommender, waiting: int = 64, seconds: float = 10.0, together: int = SEQUENCES
    ) -> None:
        self._recommender = recommender
        self.seconds = seconds
        self.pulse = Pulse()
        self.on_group: Callable[[int], None] = lambda size: None
        self._capacity, self._together = waiting, together
        self._jobs: list[Job] = []
        self._busy = False
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

    @property
    def recommenders(self) -> list[Recommender]:
        """All of them: the current one."""
        return [self._recommender]

    @property
    def each(self) -> "list[Worker]":
        """This one; see ``Workers``."""
        return [self]

    def waiting(self) -> int:
        """Requests in the queue whose callers still wait."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    def load(self) -> int:
        """Requests in the queue and the one that is being answered."""
        return self.waiting() + self._busy

    def ask(self, work: Work, size: int = 1, joins: bool = False, session: str | None = None) -> "Future[Any]":
        """Queue some work.

        Args:
            work: Called with the recommender in the model's thread. It returns the answer or, for long work, a
                generator of ``Steps``, which keeps this recommender until its end.
            size: How many histories it evaluates, or a similar measure of its steps; 1: a short request.
            joins: Its steps give a prepared request, which is evaluated together with those of others.
            session: The user whose cache it continues; see ``Workers``.

        Returns:
            The future answer; cancelling it stops the work after the current step.

        Raises:
            QueueFull: The queue is full, the worker is closing, or its thread has ended.
        """
        asked = time.monotonic()
        job = Job(work, asked + self.seconds, Future(), size, joins, size)
        job.on_begin = lambda: self.pulse.began(time.monotonic() - asked)
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
            self._jobs.append(Job(swap, float("inf"), done))
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

    def _next(self) -> Job | None:
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
            start, self._busy = time.monotonic(), True
            self._answer(job)
            self._busy = False
            seconds = time.monotonic() - start
            self._long_lead += seconds if job.size > 1 else -seconds
            self._close_replaced()

    def _answer(self, first: Job) -> None:
        """Do a job's next step; where it needs the model for one history, with others that wait for the same."""
        group = self._begin([first])
        if group and self._together > 1:
            group += self._begin(self._take_joining(self._together - 1))
        for recommender in {id(job.recommender): job.recommender for job in group}.values():
            assert recommender is not None  # of those that began before the bundle was replaced, the older one
            self._evaluate(recommender, [job for job in group if job.recommender is recommender])

    def _begin(self, jobs: list[Job]) -> list[Job]:
        """Do each job's next step; returns those that need the model now, and puts back those with more steps."""
        prepared = []
        for job in jobs:
            if job.advance(self._recommender):
                continue
            if job.prepared is not None:
                prepared.append(job)
            else:
                self._put_back(job)
        return prepared

    def _take_joining(self, most: int) -> list[Job]:
        """Take the first short jobs that can be evaluated together with others out of the queue."""
        with self._changed:
            jobs = [job for job in self._jobs if job.joins and job.size == 1][:most]
            for job in jobs:
                self._jobs.remove(job)
            return jobs

    def _put_back(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)

    def _evaluate(self, recommender: Recommender, jobs: list[Job]) -> None:
        """Evaluate what some jobs have prepared, and do their next step; one by one where that fails together."""
        try:
            results = recommender.evaluate([job.prepared for job in jobs if job.prepared is not None])
        except BaseException as error:  # the thread must not end
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:
                self._evaluate(recommender, [job])
            return
        self.on_group(len(jobs))
        for job, evaluated in zip(jobs, results, strict=True):
            if not job.advance(recommender, evaluated):
                self._put_back(job)

    def _close_replaced(self) -> None:
        """Close the replaced recommenders that no started request uses."""
        if not self._replaced:
            return
        with self._changed:
            used = [job.recommender for job in self._jobs]
        for old in [old for old in self._replaced if not any(old is recommender for recommender in used)]:
            self._replaced.remove(old)
            old.close()
