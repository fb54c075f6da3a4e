"""Single rows of a GGUF file's token embedding, read and de-quantised when they are asked for.

The ``gguf`` package's reader turns every entry of the vocabulary into objects: 2.9 s and 170 MB for 49k tokens
(measured on one core). This one walks over them, so that a title outside the catalogue costs a tenth of a second.

Format: the GGUF specification of the ggml project, versions 2 and 3, little endian.
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, MissingPackageError

TENSOR = "token_embd.weight"
_STRING, _ARRAY = 8, 9
# Bytes of the scalar value types, by their number in the specification.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class _Matrix:
    """Where the rows are: ``count`` of them, ``row_bytes`` each, from ``start``."""

    data: mmap.mmap
    start: int
    row_bytes: int
    count: int
    kind: Any


class TokenRows:
    """Rows of ``token_embd.weight``; the file is opened at the first one.

    Args:
        path: The GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _matrix(self) -> _Matrix:
        try:
            from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        except ImportError as error:
            raise MissingPackageError(
                "titles outside the catalogue need the package gguf", 'pip install "delrec-lite[gguf]"'
            ) from error
        try:
            with self._path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            width, count, number, start = _find(data)
            kind = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            matrix = _Matrix(data, start, width // block * block_bytes, count, kind)
            if start + count * matrix.row_bytes > len(data):
                raise ValueError(f"{TENSOR} is cut short")
        except (ValueError, KeyError, struct.error, IndexError) as error:
            raise BundleError(f"{self._path} does not read as GGUF: {error}", "export the run again") from error
        return matrix

    def row(self, token: int) -> Floats:
        """One row: float32 ``[hidden]``.

        Raises:
            BundleError: No GGUF file, or it has no such row.
        """
        from gguf.quants import dequantize

        m = self._matrix
        if not 0 <= token < m.count:
            raise BundleError(f"{self._path} has {m.count} token rows, none for token {token}", "export the run again")
        packed = np.frombuffer(m.data, np.uint8, m.row_bytes, m.start + token * m.row_bytes)
        if m.kind.name in ("F32", "F16"):
            packed = packed.view(np.float32 if m.kind.name == "F32" else np.float16)
        row: Floats = np.ascontiguousarray(dequantize(packed[None], m.kind)[0], np.float32)
        return row

    def mean(self, tokens: Sequence[int]) -> Floats:
        """The mean of several rows: float32 ``[hidden]``."""
        mean: Floats = np.mean([self.row(token) for token in tokens], axis=0, dtype=np.float32)
        return mean


def _find(data: mmap.mmap) -> tuple[int, int, int, int]:
    """Width, rows, type number and first byte of the token embedding."""
    if data[:4] != b"GGUF" or _u32(data, 4) not in (2, 3):
        raise ValueError("not a GGUF file of version 2 or 3")
    tensors, keys = _u64(data, 8), _u64(data, 16)
    at, alignment = 24, 32
    for _ in range(keys):
        name, at = _string(data, at)
        kind = _u32(data, at)
        at += 4
        if name == b"general.alignment" and kind == 4:
            alignment = _u32(data, at)
        at = _skip(data, at, kind)
    found = None
    for _ in range(tensors):
        name, at = _string(data, at)
        n = _u32(data, at)
        shape = struct.unpack_from(f"<{n}Q", data, at + 4)
        at += 4 + 8 * n
        if name == TENSOR.encode() and n == 2:
            found = (shape[0], shape[1], _u32(data, at), _u64(data, at + 4))
        at += 12
    if found is None:
        raise ValueError(f"it has no {TENSOR}")
    width, count, number, offset = found
    return width, count, number, -(-at // alignment) * alignment + offset


def _skip(data: mmap.mmap, at: int, kind: int) -> int:
    """The place behind a value."""
    if kind == _STRING:
        return at + 8 + _u64(data, at)
    if kind != _ARRAY:
        return at + _BYTES[kind]
    inner, count = _u32(data, at), _u64(data, at + 4)
    at += 12
    if inner in _BYTES:
        return at + count * _BYTES[inner]
    size = len(data)
    for _ in range(count):
        at = _skip(data, at, inner)
        if at > size:
            raise ValueError("a list is cut short")
    return at


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    end = at + 8 + _u64(data, at)
    return data[at + 8 : end], end


def _u32(data: mmap.mmap, at: int) -> int:
    return int(_U32.unpack_from(data, at)[0])


def _u64(data: mmap.mmap, at: int) -> int:
    return int(_U64.unpack_from(data, at)[0])
