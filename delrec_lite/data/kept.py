"""What a data set keeps for later updates: the times of its interactions, and how its files were read.

``times.npy``: the time of each interaction, user after user, as ``times.Times.values``; ``source`` of ``dataset.json``:
columns and layout of the user's own files. Neither is part of the fingerprint, because training reads neither.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.checked import Columns
from delrec_lite.data.tables import DETECTED, Layout
from delrec_lite.errors import DataError

TIMES = "times.npy"
# Keys of ``dataset.json`` that tell how it came about.
_NOT_OF_ITS_CONTENT = {"checks", "schema", "source"}


def source_of(columns: Columns, layout: Layout) -> dict[str, Any]:
    """How files were read, as JSON values."""
    return {"columns": asdict(columns), "layout": asdict(layout)}


def load_source(folder: Path) -> tuple[Columns, Layout]:
    """Columns and layout that a data set was prepared with; the usual ones where it has none of its own.

    Raises:
        DataError: ``dataset.json`` cannot be read.
    """
    source: Mapping[str, Any] = _about(folder).get("source", {})
    try:
        return Columns(**source["columns"]) if source else Columns(), Layout(**source["layout"]) if source else DETECTED
    except (KeyError, TypeError) as error:
        raise _unreadable(folder, error) from error


def identity_of(folder: Path) -> str:
    """A digest of sequences, settings and columns of a data set, without reading the sequences.

    Raises:
        DataError: ``dataset.json`` cannot be read.
    """
    about = {name: value for name, value in _about(folder).items() if name not in _NOT_OF_ITS_CONTENT}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = dict(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(folder, error) from error
    return about


def _unreadable(folder: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {folder / 'dataset.json'}: {error}", "prepare the data set again")


def load_times(folder: Path, interactions: int) -> npt.NDArray[Any] | None:
    """The times of a data set's interactions; None where an older version prepared it.

    Args:
        folder: Of the data set.
        interactions: How many it has.

    Raises:
        DataError: They are damaged.
    """
    path = folder / TIMES
    if not path.is_file():
        return None
    try:
        times = np.load(path, allow_pickle=False)
        if times.shape != (interactions,) or times.dtype not in (np.float64, np.int64):
            raise ValueError(f"{times.dtype} {times.shape} for {interactions} interactions")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}", "prepare the data set again") from error
    return np.asarray(times)
