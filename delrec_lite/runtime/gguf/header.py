"""Reads the header of a GGUF file with numpy alone: every count and length is checked before it is used.

The ``gguf`` package's reader turns every entry of the vocabulary into objects: 2.9 s and 170 MB for 49k tokens
(measured on one core), and it is not installed where a bundle is only served.

Format: the GGUF specification of the ggml project, versions 2 and 3, little endian.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.errors import BundleError

STRING, ARRAY, BOOL = 8, 9, 7
UINT32, INT32, FLOAT32 = 4, 5, 6
# Scalar value types by their number in the specification.
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    UINT32: struct.Struct("<I"),
    INT32: struct.Struct("<i"),
    FLOAT32: struct.Struct("<f"),
    BOOL: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_ARRAYS = dict(
    zip(_SCALARS, ("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<u1", "<u8", "<i8", "<f8"), strict=True)
)
# Tensor types that export writes and llama.cpp evaluates: number -> (name, weights a block, bytes a block).
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_LONGEST_NAME, _LONGEST_KEY = 63, 1024


@dataclass(frozen=True)
class Value:
    """A metadata value.

    Attributes:
        kind: Type number; for a list that of its entries.
        value: A number, bool or str; a list is a numpy array, or a Python list of bytes where entries are strings.
        listed: Whether it is a list.
    """

    kind: int
    value: Any
    listed: bool = False


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is in the file.

    Attributes:
        shape: As GGUF orders it: the contiguous dimension first.
        kind: Type number, a key of ``TENSOR_TYPES``.
        start: First byte, from the file's beginning.
        bytes: Length.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    bytes: int


@dataclass(frozen=True)
class Header:
    """A GGUF file's metadata and tensors by name, and the file itself, mapped."""

    values: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    data: mmap.mmap


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Raises:
        BundleError: It is no GGUF file, is cut short, or has impossible counts, lengths or offsets.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Reader(data).header()
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} cannot be read as GGUF: {error}", "export the run again, or copy it again"
        ) from error


class _Reader:
    """Walks over the header; every step raises ValueError or struct.error rather than read beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0

    def header(self) -> Header:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version = self._u32()
        if version not in (2, 3):
            raise ValueError(f"version {version}; 2 and 3 are known")
        tensors, keys = self._count(24), self._count(13)
        values: dict[str, Value] = {}
        for _ in range(keys):
            key = self._text(_LONGEST_KEY, "a key").decode("ascii")
            if key in values:
                raise ValueError(f"the key {key!r} occurs twice")
            values[key] = self._value(key)
        return Header(values, self._tensors(tensors, _alignment(values)), self._data)

    def _tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        entries: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
        offset = 0
        for _ in range(count):
            name = self._text(_LONGEST_NAME, "a tensor's name").decode("ascii")
            if name in entries:
                raise ValueError(f"the tensor {name} occurs twice")
            dimensions = self._u32()
            if not 1 <= dimensions <= 4:
                raise ValueError(f"{name} has {dimensions} dimensions")
            shape = tuple(self._u64() for _ in range(dimensions))
            kind, given_offset = self._u32(), self._u64()
            if kind not in TENSOR_TYPES:
                raise ValueError(f"{name} has the unknown type {kind}")
            _, block, block_bytes = TENSOR_TYPES[kind]
            weights = 1
            for size in shape:
                weights *= size
            if not 0 < weights <= self._size * 8 or shape[0] % block:
                raise ValueError(f"{name} cannot have the shape {shape}")
            if given_offset != offset:
                raise ValueError(f"{name} begins at {given_offset}, the tensor before it ends at {offset}")
            size = weights // block * block_bytes
            entries[name] = (shape, kind, offset, size)
            offset = _padded(offset + size, alignment)
        start = _padded(self._at, alignment)
        if entries:
            end = max(start + place + size for _, _, place, size in entries.values())
            if not end <= self._size <= _padded(end, alignment):
                raise ValueError(f"its tensors end at {end}, the file at {self._size}")
        return {name: Tensor(shape, kind, start + place, size) for name, (shape, kind, place, size) in entries.items()}

    def _value(self, key: str) -> Value:
        kind = self._u32()
        if kind == STRING:
            return Value(kind, self._text(self._size, key).decode("utf-8"))
        if kind == ARRAY:
            return self._list(key)
        if kind not in _SCALARS:
            raise ValueError(f"{key} has the unknown type {kind}")
        (value,) = _SCALARS[kind].unpack_from(self._data, self._at)
        self._at += _SCALARS[kind].size
        if kind == BOOL and value > 1:
            raise ValueError(f"{key} is neither true nor false")
        return Value(kind, bool(value) if kind == BOOL else value)

    def _list(self, key: str) -> Value:
        kind = self._u32()
        if kind == STRING:
            return Value(kind, self._strings(key), listed=True)
        if kind not in _ARRAYS:
            raise ValueError(f"{key} is a list of the unknown type {kind}")
        dtype = np.dtype(_ARRAYS[kind])
        count = self._count(dtype.itemsize)
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += count * dtype.itemsize
        return Value(kind, values, listed=True)

    def _strings(self, key: str) -> list[bytes]:
        # A vocabulary and its merges are 100k entries, so the loop makes few calls.
        count = self._count(8)
        data, at, length_at = self._data, self._at, _U64.unpack_from
        texts = []
        for _ in range(count):
            start = at + 8
            at = start + length_at(data, at)[0]
            if at > self._size:
                raise ValueError(f"{key} goes beyond the end")
            texts.append(data[start:at])
        self._at = at
        return texts

    def _text(self, max_length: int, what: str) -> bytes:
        length = self._u64()
        if length > max_length or length > self._size - self._at:
            raise ValueError(f"{what} is {length} bytes long, beyond the end")
        start = self._at
        self._at += length
        return self._data[start : self._at]

    def _count(self, min_bytes: int) -> int:
        """A count of entries that take at least ``min_bytes`` each."""
        count = self._u64()
        if count * min_bytes > self._size - self._at:
            raise ValueError(f"it announces {count} entries in {self._size - self._at} bytes")
        return count

    def _u32(self) -> int:
        (value,) = _U32.unpack_from(self._data, self._at)
        self._at += 4
        return int(value)

    def _u64(self) -> int:
        (value,) = _U64.unpack_from(self._data, self._at)
        self._at += 8
        return int(value)


def _alignment(values: Mapping[str, Value]) -> int:
    entry = values.get("general.alignment")
    if entry is None:
        return 32
    if entry.listed or entry.kind != UINT32 or entry.value not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise ValueError("general.alignment is no power of two")
    return int(entry.value)


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
