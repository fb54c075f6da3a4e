"""The signals of a server, caught from its first moment on; imports nothing that takes time.

SIGHUP means "load the bundle again": one that arrives before the server is ready is remembered and handled then.
"""

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# True: load the bundle again; False: end. Its ``put`` may be interrupted by a handler that calls it too.
_requests: "queue.SimpleQueue[bool]" = queue.SimpleQueue()


def catch_first() -> None:
    """Remember SIGHUP, and let SIGINT end the process without a traceback until ``restore_interrupt``."""
    catch_hangups()
    if _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def restore_interrupt() -> None:
    """Make SIGINT a ``KeyboardInterrupt`` again."""
    if _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def catch_hangups() -> None:
    """Remember every SIGHUP from now on; nothing outside the main thread or where the system has no such signal."""
    if _in_main_thread() and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: _requests.put(True))


@contextmanager
def on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    """Call ``reload`` in a thread after SIGHUP, also one that came before; several during a reload count as one."""

    def run() -> None:
        while _next():
            reload()

    thread = threading.Thread(target=run, name="delrec-reload")
    thread.start()
    try:
        yield
    finally:
        _requests.put(False)
        thread.join()


def _next() -> bool:
    """Wait for requests and take all that are there; False where one of them is the end."""
    requests = [_requests.get()]
    while not _requests.empty():
        requests.append(_requests.get())
    return all(requests)


@contextmanager
def on_terminate(clean_up: Callable[[], None]) -> Iterator[None]:
    """Call ``clean_up`` before SIGTERM ends the process, and then those around it; nothing outside the main thread."""
    if not _in_main_thread():
        yield
        return

    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def terminate(*_: object) -> None:
        clean_up()
        signal.signal(signal.SIGTERM, previous)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
