"""`Workers`: several copies of the model in one process; a session always goes to the same one.

Each copy is loaded by itself and has threads of its own. The engines compute without Python's lock, so copies in one
process compute at the same time as copies in several processes would; and limits, keys, metrics and the log stay those
of one server.
"""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.jobs import Work
from delrec_lite.server.worker import Worker


class Workers:
    """Divides requests among workers; otherwise like one ``Worker``.

    Args:
        workers: At least one.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = list(workers)

    @property
    def recommender(self) -> Recommender:
        """That of the first worker, for uses without the model."""
        return self._workers[0].recommender

    @property
    def recommenders(self) -> list[Recommender]:
        """That of each worker."""
        return [worker.recommender for worker in self._workers]

    @property
    def each(self) -> list[Worker]:
        """The workers, each with a thread and a pulse of its own."""
        return list(self._workers)

    @property
    def seconds(self) -> float:
        """See ``Worker``."""
        return self._workers[0].seconds

    @property
    def on_group(self) -> Callable[[int], None]:
        """See ``Worker``."""
        return self._workers[0].on_group

    @on_group.setter
    def on_group(self, call: Callable[[int], None]) -> None:
        for worker in self._workers:
            worker.on_group = call

    def waiting(self) -> int:
        """Requests in all queues whose callers still wait."""
        return sum(worker.waiting() for worker in self._workers)

    def ask(self, work: Work, size: int = 1, joins: bool = False, session: str | None = None) -> "Future[Any]":
        """See ``Worker.ask``: a session's requests go to its worker, others to the one with the fewest waiting.

        Raises:
            QueueFull: That worker's queue is full, or the workers are closing.
        """
        return self._worker_for(session).ask(work, size, joins, session)

    def _worker_for(self, session: str | None) -> Worker:
        if session is not None:
            return self._workers[zlib.crc32(session.encode("utf-8", "surrogatepass")) % len(self._workers)]
        return min(self._workers, key=lambda worker: (not worker.alive, worker.load()))

    def replace(self, *recommenders: Recommender) -> None:
        """Give each worker a newer recommender; see ``Worker.replace``.

        Raises:
            QueueFull: The workers are closing; those of the recommenders that no worker has are not closed.
        """
        for worker, recommender in zip(self._workers, recommenders, strict=True):
            worker.replace(recommender)

    def close(self) -> None:
        """Answer the queued requests, then free the models; a second call does nothing."""
        for worker in self._workers:
            worker.close()
