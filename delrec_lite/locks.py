"""Locks on files, which the operating system releases when a process ends."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def sole_lock(path: Path, busy: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """``locked``, and the file is removed afterwards where the system allows that."""
    with ExitStack() as stack:
        while True:
            with path.open("ab") as opened, ExitStack() as attempt:
                has_lock = attempt.enter_context(locked(path, busy))
                # The process before may have removed the file that was waited for: then that lock guards nothing.
                if not has_lock or _is_same(path, opened.fileno()):
                    stack.push(attempt.pop_all())
                    break
        if has_lock and os.name == "posix":
            stack.callback(path.unlink, missing_ok=True)
        yield has_lock


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[bool]:
    """Lock the file ``path``; the operating system releases the lock when a process ends.

    Args:
        path: Created if missing; it is not removed.
        busy: Called if another process has the lock: it may raise; if it returns, this waits for the lock.

    Yields:
        False if the file system has no locks, as some network disks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy()
        lock.acquire()
    except (NotImplementedError, OSError) as error:  # the first from filelock before its fourth version
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
