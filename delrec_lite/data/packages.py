"""Imports pyarrow and duckdb where they are used."""

from typing import Any

from delrec_lite.errors import MissingPackageError, install_line


def arrow() -> Any:
    """The package ``pyarrow`` with the submodules that are used.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            "reading tables needs pyarrow, which is not installed", install_line("pyarrow")
        ) from error
    return pyarrow


def duckdb() -> Any:
    """The package ``duckdb``.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingPackageError(
            "logs larger than memory need duckdb, which is not installed", install_line("duckdb")
        ) from error
    return duckdb
