"""Small things every room does with files: a digest, a write that is whole or not at all, a lock, the cache's place."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


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


def lock(file: IO[Any], busy: Callable[[], None]) -> bool:
    """Hold ``file`` for this process until it is closed; the lock is the kernel's, so a killed process leaves none.

    Args:
        file: Open for writing.
        busy: Called when another process has it: what it raises ends the try, else this waits.

    Returns:
        False where there is no such lock (Windows, some network disks).
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
