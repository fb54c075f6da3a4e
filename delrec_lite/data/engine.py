"""DuckDB with bounded memory: what exceeds the limit goes to a folder, and its errors are one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.data.packages import duckdb
from delrec_lite.errors import DelrecError, OutOfMemoryError, StorageError


def connect(spill: Path, memory: int, threads: int, file: Path | None = None) -> Any:
    """A connection to a database of its own; times are UTC.

    Args:
        spill: Folder for what exceeds the limit; made when it is needed.
        memory: Bytes that DuckDB may use.
        threads: It computes with; each needs memory of its own.
        file: Of the database; None: in memory.

    Raises:
        MissingPackageError: duckdb is not installed.
    """
    settings = {"memory_limit": f"{memory // 10**6}MB", "threads": threads, "temp_directory": str(spill)}
    connection = duckdb().connect(str(file or ":memory:"), config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@contextmanager
def engine_errors(folder: Path, hint: str) -> Iterator[None]:
    """One clear error for a full disk, for too little memory, and for whatever else DuckDB raises.

    Args:
        folder: That it writes to.
        hint: How to give it more memory.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        OutOfMemoryError: The limit is too low.
        DelrecError: Anything else.
    """
    package = duckdb()
    try:
        yield
    except package.Error as error:
        text = " ".join(str(error).split())[:300]
        full = isinstance(error, package.IOException) or "No space left" in text or "max_temp_directory_size" in text
        if full:
            raise StorageError(f"cannot write {folder}: {text}", "choose a folder on a disk with free space") from error
        if isinstance(error, package.OutOfMemoryException):
            raise OutOfMemoryError(f"the table does not fit the limit: {text}", hint) from error
        raise DelrecError(f"DuckDB: {text}", "this is a bug; DELREC_DEBUG=1 shows the traceback") from error
