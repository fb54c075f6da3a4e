"""The file that holds the server's process id, so that a service manager or a script can send it signals."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.files import write_atomic
from delrec_lite.server.signals import on_terminate


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Write the file, and remove it at the end; with None, nothing.

    Raises:
        UsageError: The path holds something else than a process id.
        StorageError: It cannot be written.
    """
    if path is None:
        yield
        return
    path = path.resolve()  # a link to another folder stays a link
    if path.exists() and not _is_ours(path):
        raise UsageError(f"{path} exists and is no file with a process id", "choose another --pid-file")
    number = f"{os.getpid()}\n"

    def remove() -> None:
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == number:
            path.unlink(missing_ok=True)

    with on_terminate(remove):
        try:
            write_atomic(path, number)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}", "choose another --pid-file") from error
        try:
            yield
        finally:
            remove()


def _is_ours(path: Path) -> bool:
    """Whether a file holds a process id, as that of an earlier server does, or nothing."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        content = file.read(32).strip()
    return not content or (content.isdigit() and len(content) < 20)
