"""A large data set's arrays as files that are mapped into memory: sequences, cuts, users with questions, candidates.

``items.npy`` (int32, the items of all users one after another), ``offsets.npy`` (int64 ``[users + 1]``, where each
user's begin), ``candidates-valid.npy`` and ``candidates-test.npy`` (int32 ``[questions, m]``); where there are any,
``cuts.npy``, ``unasked.npy`` and ``asked.npy``, as in ``Dataset``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.sequences import MappedSequences
from delrec_lite.data.types import CandidateSets, Dataset, Ints

ITEMS, OFFSETS = "items.npy", "offsets.npy"
ARRAY_FILES = {
    ITEMS,
    OFFSETS,
    "cuts.npy",
    "unasked.npy",
    "asked.npy",
    "candidates-valid.npy",
    "candidates-test.npy",
}


def write_items(path: Path, count: int, parts: Iterable[npt.NDArray[Any]]) -> None:
    """Write ``count`` items that come in parts, without all of them in memory."""
    write_array(path, count, "<i4", parts)


def write_array(path: Path, count: int, kind: npt.DTypeLike, parts: Iterable[npt.NDArray[Any]]) -> None:
    """Write an array of ``count`` numbers that come in parts, without all of them in memory."""
    written = np.dtype(kind)
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(written), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.astype(written).tobytes())


def question_arrays(dataset: Dataset) -> dict[str, npt.NDArray[Any]]:
    """What decides the questions, as arrays by name: ``cuts``, ``unasked`` and ``asked``, where there are any."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    if dataset.cuts is not None:
        arrays["cuts"] = dataset.cuts.astype(np.int32)
    if dataset.unasked:
        arrays["unasked"] = np.array(dataset.unasked, dtype=np.int64)
    if dataset.asked is not None:
        arrays["asked"] = np.array(dataset.asked, dtype=np.int64)
    return arrays


def write_arrays(folder: Path, dataset: Dataset, candidates: Mapping[str, CandidateSets]) -> None:
    """Write the other arrays; the sequences of ``dataset`` are already there."""
    for name, values in question_arrays(dataset).items():
        np.save(folder / f"{name}.npy", values)
    for split, sets in candidates.items():
        np.save(folder / f"candidates-{split}.npy", sets.items.astype(np.int32))


def map_sequences(folder: Path) -> MappedSequences:
    """The sequences of a folder, mapped.

    Raises:
        ValueError: The arrays do not fit each other.
    """
    items = np.load(folder / ITEMS, mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / OFFSETS, allow_pickle=False).astype(np.int64)
    if offsets.ndim != 1 or not len(offsets) or items.ndim != 1:
        raise ValueError("its arrays have another shape")
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(items) or (lengths < 0).any():
        raise ValueError(f"{OFFSETS} does not fit {ITEMS}")
    return MappedSequences(items, offsets[:-1], lengths)


def read_cuts(folder: Path) -> Ints | None:
    """``Dataset.cuts``."""
    path = folder / "cuts.npy"
    return np.load(path, allow_pickle=False).astype(np.int64) if path.exists() else None


def read_users(folder: Path, name: str) -> tuple[int, ...] | None:
    """Indices of users, ``unasked`` or ``asked``; None if there is no such file."""
    path = folder / f"{name}.npy"
    return tuple(np.load(path, allow_pickle=False).tolist()) if path.exists() else None


def read_candidates(folder: Path, split: str, seed: int) -> CandidateSets:
    """The candidate sets of a split."""
    return CandidateSets(split, np.load(folder / f"candidates-{split}.npy", allow_pickle=False).astype(np.int64), seed)
