"""The user's own item vectors: read and checked, and brought from the item list's order into the catalogue's."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import DataError, StorageError
from delrec_lite.files import write_atomic

# In the folder of a prepared data set.
FILE = "item-vectors.npy"
_MAGIC = b"\x93NUMPY"


def read_vectors(path: Path, rows: int) -> Floats:
    """A vector for each item: float32 ``[rows, width]``.

    Raises:
        DataError: It is no ``.npy`` file of numbers, or has another number of rows.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise DataError(f"{path} is no .npy file", "write one array with numpy.save, a row for each item")
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", "write it with numpy.save") from error
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise DataError(f"{path} has the shape {vectors.shape}, not [{rows}, width]", "one row for each item")
    if vectors.dtype.kind not in "fiub":
        raise DataError(f"{path} holds {vectors.dtype} and no numbers", "every item needs a vector of numbers")
    with np.errstate(over="ignore"):
        numbers: Floats = vectors.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path} holds NaN, infinity or numbers above 1e38", "every item needs a vector of numbers")
    return numbers


def save_vectors(vectors: Floats, listed: Sequence[str], ids: Sequence[str], folder: Path) -> Path:
    """Write the vectors of a catalogue's items beside it.

    Args:
        vectors: Of the rows of an item list, float32 ``[rows, width]``; of an id with several rows the first counts.
        listed: The ids in these rows.
        ids: Of the catalogue; each is listed.
        folder: Of the data set.

    Returns:
        The file, in the order of the catalogue.

    Raises:
        StorageError: It cannot be written.
    """
    row_of = {item: row for row, item in reversed(list(enumerate(listed)))}
    content = io.BytesIO()
    np.save(content, vectors[[row_of[item] for item in ids]], allow_pickle=False)
    try:
        write_atomic(folder / FILE, content.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write {folder / FILE}: {error}", "prepare the data set again") from error
    return folder / FILE
