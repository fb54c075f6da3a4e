"""Single rows of a GGUF file's token embedding, read and de-quantised when they are asked for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.errors import BundleError, MissingPackageError
from delrec_lite.runtime.engine import Floats


class TokenRows:
    """Rows of ``token_embd.weight``; the file is opened at the first one.

    Args:
        path: The GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _tensor(self) -> Any:
        try:
            import gguf
        except ImportError as error:
            raise MissingPackageError(
                "titles outside the catalogue need the package gguf", 'pip install "delrec-lite[gguf]"'
            ) from error
        for tensor in gguf.GGUFReader(self._path).tensors:
            if tensor.name == "token_embd.weight":
                return tensor
        raise BundleError(f"{self._path} has no token embedding", "export the run again")

    def row(self, token: int) -> Floats:
        """One row: float32 ``[hidden]``."""
        from gguf.quants import dequantize

        tensor = self._tensor
        rows: Floats = dequantize(tensor.data[token : token + 1], tensor.tensor_type)
        return np.ascontiguousarray(rows[0], np.float32)

    def mean(self, tokens: Sequence[int]) -> Floats:
        """The mean of several rows: float32 ``[hidden]``."""
        mean: Floats = np.mean([self.row(token) for token in tokens], axis=0, dtype=np.float32)
        return mean
