"""What the first worker says, shown where the command was called; Ray's own lines are for ``DELREC_DEBUG=1``."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from delrec_lite.console import Console

SECONDS_BETWEEN_LOOKS = 0.5


class SentConsole(Console):
    """A console whose messages go to ``shown``, progress too; results are returned and not printed.

    Args:
        queue: Of ``shown``.
    """

    def __init__(self, queue: Any) -> None:
        super().__init__("human")
        self._queue = queue

    @property
    def shows_bars(self) -> bool:
        """Never: progress is a line now and then."""
        return False

    def say(self, text: str) -> None:
        """Send a message."""
        self._queue.actor.put_nowait.remote(text)  # no answer is waited for

    def heading(self, text: str) -> None:
        """Send the heading of a stage."""
        self.say(text)


@contextmanager
def shown(console: Console) -> Iterator[Any]:
    """Show messages of other processes of a Ray cluster while the ``with`` lasts.

    Args:
        console: Shows them.

    Yields:
        A queue for ``SentConsole``.
    """
    from ray.util.queue import Queue

    queue, finished = Queue(actor_options={"num_cpus": 0}), threading.Event()

    def show() -> None:
        while not finished.wait(SECONDS_BETWEEN_LOOKS):
            _show_all(queue, console)

    reader = threading.Thread(target=show, name="delrec-messages", daemon=True)
    reader.start()
    try:
        yield queue
    finally:
        finished.set()
        reader.join()
        _show_all(queue, console)


def _show_all(queue: Any, console: Console) -> None:
    for text in queue.get_nowait_batch(queue.qsize()):
        console.say(text)
