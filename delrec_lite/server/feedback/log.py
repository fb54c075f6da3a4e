"""`FeedbackLog`: a bounded queue and the thread that writes it; no answer ever waits for the disk."""

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.feedback.records import ACCEPTED, Event, Served
from delrec_lite.server.feedback.store import NotStored, Store

LOG = logging.getLogger("delrec_lite.server")
# Items of lists, and events, that may wait to be written: about 30 MB.
MOST_WAITING = 100_000
# Those that are written in one transaction.
_MOST_AT_ONCE = 10_000
# Seconds that a list may wait for others, so that the disk is not flushed for each; events never wait.
_GATHER = 0.2


class QueueIsFull(NotStored):
    """Too much waits to be written."""

    def __init__(self) -> None:
        super().__init__("too much is waiting to be written", False)


class _Job:
    """Something to write: a list, or events with the future of what became of them."""

    def __init__(self, entry: Served | Sequence[Event], future: "Future[list[str]] | None") -> None:
        self.entry, self.future, self.since = entry, future, time.monotonic()
        self.weight = 1 + len(entry.items if isinstance(entry, Served) else entry)


class FeedbackLog:
    """Lists and events, written by a thread of its own.

    Args:
        path: The SQLite file; created where there is none.
        limit: The oldest lists go when it is larger.
        histories: Whether the histories of requests are logged too.

    Attributes:
        written: Rows written, by ``list`` and ``event``.
        dropped: Lists that were not written, by ``queue`` (too many waited) and ``disk``.

    Raises:
        StorageError: The file is something else, or cannot be written.
    """

    def __init__(self, path: Path, limit: Limit | None = None, histories: bool = False) -> None:
        self.histories = histories
        self.written: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._store = Store(path, limit or Limit())
        self._jobs: deque[_Job] = deque()
        self._weight = 0
        self._changed = threading.Condition()
        self._closing = self._failing = self._overflowing = False
        self._thread = threading.Thread(target=self._run, name="delrec-feedback", daemon=True)
        self._thread.start()

    def serve(self, served: Served) -> None:
        """Log a list, later; where too many wait it is dropped and counted. Never waits, never raises."""
        if not self._put(_Job(served, None)):
            self._drop("queue", 1)

    def record(self, events: Sequence[Event]) -> "Future[list[str]]":
        """Write events; the future has what became of each of them, once they are on the disk, or ``NotStored``.

        Raises:
            QueueIsFull: Too much is waiting, or the log is closed.
        """
        future: Future[list[str]] = Future()
        if not self._put(_Job(events, future)):
            raise QueueIsFull
        return future

    def flush(self, seconds: float = 10.0) -> None:
        """Wait until what was given before is written.

        Raises:
            NotStored: It cannot be written.
        """
        self.record(()).result(seconds)

    def waiting(self) -> int:
        """Items and events that wait to be written."""
        return self._weight

    def bytes(self) -> int:
        """Bytes on disk."""
        return self._store.bytes()

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, then close the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _put(self, job: _Job) -> bool:
        with self._changed:
            if self._closing or self._weight + job.weight > MOST_WAITING:
                return False
            self._jobs.append(job)
            self._weight += job.weight
            self._changed.notify()
        return True

    def _run(self) -> None:
        while jobs := self._next():
            try:
                self._write(jobs)
            except BaseException as error:  # the thread must not end
                LOG.exception("the feedback log")
                self._fail(jobs, NotStored(f"{type(error).__name__}: {error}", False))
        self._store.close()

    def _next(self) -> list[_Job]:
        """Wait for something to write; empty at the end."""
        with self._changed:
            while not self._closing and not any(job.future for job in self._jobs):
                wait = self._jobs[0].since + _GATHER - time.monotonic() if self._jobs else None
                if wait is not None and wait <= 0:
                    break
                self._changed.wait(wait)
            taken: list[_Job] = []
            weight = 0
            while self._jobs and (not taken or weight + self._jobs[0].weight <= _MOST_AT_ONCE):
                taken.append(self._jobs.popleft())
                weight += taken[-1].weight
            self._weight -= weight
            return taken

    def _write(self, jobs: Sequence[_Job]) -> None:
        try:
            outcomes = self._store.write([job.entry for job in jobs])
        except NotStored as error:
            self._fail(jobs, error)
            return
        self.written["list"] += sum(job.future is None for job in jobs)
        self.written["event"] += sum(outcome.count(ACCEPTED) for outcome in outcomes)
        if self._failing:
            LOG.warning(json.dumps({"feedback_log": "works again", "lists_dropped": self.dropped["disk"]}))
        self._failing = False
        futures = [job.future for job in jobs if job.future]
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.set_running_or_notify_cancel():
                future.set_result(outcome)

    def _fail(self, jobs: Sequence[_Job], error: NotStored) -> None:
        if not self._failing:
            LOG.error(
                json.dumps({"feedback_log": "failing", "error": error.message, "hint": "lists are not logged now"})
            )
        self._failing = True
        self._drop("disk", sum(job.future is None for job in jobs))
        for job in jobs:
            if job.future and job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

    def _drop(self, reason: str, count: int) -> None:
        with self._changed:
            self.dropped[reason] += count
            first, self._overflowing = reason == "queue" and not self._overflowing, True
        if first:
            LOG.error(json.dumps({"feedback_log": "too slow", "hint": "lists are dropped and counted in /metrics"}))
