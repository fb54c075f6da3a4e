"""File helpers: sha256, atomic writes, locks, the cache folder and its lists."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delrec_lite import environment

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """``DELREC_CACHE``, or the platform's cache folder."""
    if configured := environment.folder("DELREC_CACHE"):
        return configured
    import platformdirs

    return Path(platformdirs.user_cache_dir("delrec-lite"))


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file atomically; text is UTF-8."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list in the cache; empty if there is none that can be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def add_entry(path: Path, entry: Mapping[str, Any], replaces: Callable[[dict[str, Any]], bool]) -> None:
    """Append to a JSON list in the cache; nothing where it cannot be written, because the cache is optional.

    Args:
        path: See ``read_entries``; its folder is created if missing.
        entry: To append.
        replaces: Whether it takes the place of an earlier entry.
    """
    others = [earlier for earlier in read_entries(path) if not replaces(earlier)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps([*others, entry], indent=1) + "\n")
    except OSError:
        return


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
