"""Checks that the processes of a run, which may be on several machines, see the same folders."""

import socket
import uuid
from pathlib import Path

from delrec_lite.errors import StorageError
from delrec_lite.files import appears
from delrec_lite.processes import current


def check_shared(folder: Path) -> None:
    """Check that a folder that the first process has made is the same for all; with one process, nothing is done.

    Raises:
        StorageError: This process sees another folder of that name, or none.
    """
    processes = current()
    if processes.count == 1:
        return
    mark = folder / processes.from_first(lambda: _mark(folder))
    try:
        if not appears(mark):
            raise _not_shared(folder, "and `--runs` names it")
        processes.wait()
    finally:
        if processes.first:
            mark.unlink(missing_ok=True)


def check_seen(folder: Path, named_by: str) -> None:
    """Check that a file or folder that the first process named is here, too.

    Args:
        folder: Its path.
        named_by: What names the folder of such files, for the error.

    Raises:
        StorageError: It is not.
    """
    if not current().first and not folder.exists():
        raise _not_shared(folder, f"and {named_by}")


def check_equal(own: object, first: object, what: str) -> None:
    """Check that this process has what the first one has.

    Args:
        own: What it has.
        first: What the first process has.
        what: Name of it, for the error.

    Raises:
        StorageError: They differ.
    """
    if not current().first and own != first:
        raise StorageError(
            f"process {current().index}, on {socket.gethostname()}, has another copy of {what} than the first process",
            "put it on storage that all machines share, or copy it to all of them again",
        )


def _mark(folder: Path) -> str:
    name = f".seen-{uuid.uuid4().hex}.part"
    (folder / name).touch()
    return name


def _not_shared(folder: Path, named_by: str) -> StorageError:
    return StorageError(
        f"process {current().index}, on {socket.gethostname()}, does not see what the first process has in {folder}",
        f"with several machines it must be on storage that all of them share, {named_by}",
    )
