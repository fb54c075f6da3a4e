"""Trained weights as they ship: matrices in eight bits with a scale for each row, a quarter of float32."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from delrec_lite.data.types import Floats

SCALES = ".scales"  # after the name of a matrix: the scale of each row
# What torch's readers of these files ask for.
METADATA = {"format": "pt"}
LARGEST = 127


def shrink(path: Path) -> None:
    """Store a file's matrices as int8 ``[rows, columns]`` and float32 scales ``[rows]``; all else stays."""
    shrunk = dict[str, Any]()
    for name, tensor in load_file(path).items():
        if tensor.ndim == 2 and tensor.dtype.kind == "f":
            shrunk[name], shrunk[name + SCALES] = _whole_numbers(tensor.astype(np.float32))
        else:
            shrunk[name] = tensor
    save_file(shrunk, path, metadata=METADATA)


def expand(path: Path) -> bool:
    """Make the matrices of a shrunk file float32 again; whether there were any."""
    with safe_open(path, "numpy") as opened:
        names = opened.keys()
    if not any(name.endswith(SCALES) for name in names):
        return False
    tensors = load_file(path)
    whole = {
        name: tensor.astype(np.float32) * tensors[name + SCALES][:, None] if name + SCALES in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALES)
    }
    save_file(whole, path, metadata=METADATA)
    return True


def _whole_numbers(matrix: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    scales: Floats = np.abs(matrix).max(axis=1) / np.float32(LARGEST)
    scales[scales == 0] = 1
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales
