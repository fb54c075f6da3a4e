"""Imports pyarrow where it is used."""

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
