"""Single rows of a GGUF file's token embedding or of its output head, read and dequantised on demand.

The ``gguf`` package dequantises them; it is used for nothing else.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, MissingPackageError, install_line
from delrec_lite.runtime.gguf.header import Header, read_header

TENSOR, OUTPUT = "token_embd.weight", "output.weight"
# Up to so many bytes the rows are copied, because a mapped file that is cut short kills the process that reads it.
# The rows of a million items stay mapped.
MAX_COPIED = 1 << 27


@dataclass(frozen=True)
class _Matrix:
    """Where the rows are: ``count`` of them, ``row_bytes`` each, from ``start``."""

    data: bytes | mmap.mmap
    start: int
    row_bytes: int
    count: int
    kind: Any


class TokenRows:
    """Rows of ``token_embd.weight``, or of another matrix with a row for each token.

    Args:
        path: The GGUF file; read now, it may change afterwards.
        header: Its header, where it was read before.
        name: Of the matrix.

    Raises:
        BundleError: No GGUF file, or it has no such rows.
    """

    def __init__(self, path: Path, header: Header | None = None, name: str = TENSOR) -> None:
        self._path = path
        header = header or read_header(path)
        tensor = header.tensors.get(name)
        if tensor is None or len(tensor.shape) != 2:
            raise BundleError(f"{path} cannot be read as GGUF: it has no {name}", "export the run again")
        self._tensor, self._start = tensor, tensor.start
        self._data: bytes | mmap.mmap = header.data
        if tensor.bytes <= MAX_COPIED:
            self._start, self._data = 0, header.data[tensor.start : tensor.start + tensor.bytes]

    @cached_property
    def _matrix(self) -> _Matrix:
        try:
            from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        except ImportError as error:
            raise MissingPackageError(
                "titles outside the catalogue need the package gguf, which is not installed", install_line("gguf")
            ) from error
        width, count = self._tensor.shape
        kind = GGMLQuantizationType(self._tensor.kind)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        return _Matrix(self._data, self._start, width // block * block_bytes, count, kind)

    def row(self, token: int) -> Floats:
        """One row: float32 ``[hidden]``; raises the same as ``rows``."""
        row: Floats = self.rows([token])[0]
        return row

    def rows(self, tokens: Sequence[int] | Ints) -> Floats:
        """Several rows: float32 ``[tokens, hidden]``.

        Raises:
            BundleError: There is no such row.
            MissingPackageError: The package gguf is not installed.
        """
        from gguf.quants import dequantize

        matrix = self._matrix
        places = np.asarray(tokens, np.int64)
        if (wrong := (places < 0) | (places >= matrix.count)).any():
            raise BundleError(
                f"{self._path} has {matrix.count} token rows, none for token {places[wrong][0]}", "export the run again"
            )
        stored = np.frombuffer(matrix.data, np.uint8, matrix.count * matrix.row_bytes, matrix.start)
        packed = stored.reshape(matrix.count, matrix.row_bytes)[places]
        if matrix.kind.name in ("F32", "F16"):
            packed = packed.view(np.float32 if matrix.kind.name == "F32" else np.float16)
        rows: Floats = np.ascontiguousarray(dequantize(packed, matrix.kind), np.float32)
        return rows

    def mean(self, tokens: Sequence[int]) -> Floats:
        """The mean of several rows: float32 ``[hidden]``."""
        mean: Floats = np.mean(self.rows(tokens), axis=0, dtype=np.float32)
        return mean

    def in_their_type(self, vector: Floats) -> Floats:
        """A vector rounded to the numbers that the rows' type can hold, as llama.cpp rounds what it multiplies them by.

        Args:
            vector: float32 ``[hidden]``.
        """
        from gguf.quants import dequantize, quantize

        kind = self._matrix.kind
        rounded: Floats = dequantize(quantize(vector[None], kind), kind)[0].astype(np.float32)
        return rounded
