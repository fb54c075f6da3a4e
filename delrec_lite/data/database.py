"""DuckDB in memory with a limit: what exceeds it goes to a folder, so that tables larger than memory are sorted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.errors import DelrecError, MissingPackageError, StorageError, install_line
from delrec_lite.machine import cores_allowed

MEMORY = "512MB"
# Each thread of DuckDB needs memory of its own.
MOST_THREADS = 4


@contextmanager
def database(folder: Path, memory: str = MEMORY) -> Iterator[Any]:
    """A connection to an empty database; times are UTC.

    Args:
        folder: For what exceeds the limit; DuckDB makes it when it is needed.
        memory: The limit, as DuckDB reads it.

    Raises:
        DelrecError: Whatever DuckDB raises inside, in one line.
        MissingPackageError: duckdb is not installed.
        StorageError: The disk is full.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingPackageError(
            "reading tables in bounded memory needs duckdb, which is not installed", install_line("duckdb")
        ) from error
    config = {"memory_limit": memory, "temp_directory": str(folder), "threads": min(MOST_THREADS, cores_allowed())}
    try:
        with duckdb.connect(":memory:", config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
    except duckdb.Error as error:
        text = " ".join(str(error).split())
        if "No space left" in text or "max_temp_directory_size" in text:
            raise StorageError(
                f"no space left on the disk while writing {folder}", "free some space and run it again"
            ) from error
        raise DelrecError(f"DuckDB: {text[:300]}", "this is a bug; DELREC_DEBUG=1 shows the traceback") from error
