"""Small things every room does with files: a digest, a write that is whole or not at all, a lock, the cache's place."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """``DELREC_CACHE``, or the platform's cache folder."""
    if told := os.environ.get("DELREC_CACHE"):
        return Path(told)
    import platformdirs

    return Path(platformdirs.user_cache_dir("delrec-lite"))


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; text is UTF-8."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file ``path``; the lock is the system's, so a killed process leaves none behind.

    Args:
        path: Made where it is missing; it stays.
        busy: Called when it is held elsewhere: what it raises ends the try, else this waits.

    Yields:
        False where the disk knows no locks, as some network disks.
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
