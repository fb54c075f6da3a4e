"""The items' input rows of an ONNX file that export wrote, for which ONNX Runtime has no call.

Only the few fields of the format that lead to them are read (onnx.proto of the ONNX project, protocol buffers' wire
format), and every length is checked before it is used.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.errors import BundleError
from delrec_lite.runtime.manifest import REMEDY

# The name that export gives to the rows.
TENSOR = "item_rows"
# Numbers of fields: ModelProto.graph, GraphProto.initializer, and those of TensorProto and StringStringEntryProto.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL = 1, 2, 8, 9, 13
_KEY, _VALUE = 1, 2
_TYPES: dict[int, Any] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}
# Up to so many bytes the rows are copied; those of a million items stay mapped (see ``runtime.gguf.rows``).
MAX_COPIED = 1 << 27


def read_item_rows(path: Path, items: int, hidden: int) -> Any:
    """The input rows of a graph's items: float16 or float32 ``[items, hidden]``.

    Args:
        path: The ``.onnx`` file; its weights are beside it.
        items: Of the graph.
        hidden: Its width.

    Raises:
        BundleError: They are not there, or of another shape.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tensor = _tensor(data)
        dtype, shape = _TYPES[tensor[_TYPE][0]], tuple(tensor[_DIMS])
        if shape != (items, hidden):
            raise ValueError(f"{TENSOR} has the shape {shape}, not {(items, hidden)}")
        if tensor[_RAW]:
            return np.frombuffer(tensor[_RAW][0], dtype, items * hidden).reshape(shape)
        place = dict(_pair(entry) for entry in tensor[_EXTERNAL])
        weights = path.with_name(f"{path.name}.data")
        if place["location"] != weights.name or int(place["length"]) != items * hidden * dtype.itemsize:
            raise ValueError(f"{TENSOR} is not in {weights.name}")
        rows = np.memmap(weights, dtype, "r", int(place["offset"]), shape)
        return np.array(rows) if rows.nbytes <= MAX_COPIED else rows
    except (OSError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise BundleError(f"{path} gives no item rows: {error}", REMEDY) from error


def _tensor(data: Any) -> dict[int, list[Any]]:
    """The fields of the tensor in a model's bytes."""
    for model_field, graph in _fields(data, 0, len(data)):
        if model_field != _GRAPH or not isinstance(graph, range):
            continue
        for field, place in _fields(data, graph.start, graph.stop):
            if field == _INITIALIZER and isinstance(place, range):
                tensor = _collect(data, place)
                if tensor[_NAME] == [TENSOR.encode()]:
                    return tensor
    raise ValueError(f"it has no tensor {TENSOR}")


def _collect(data: Any, place: range) -> dict[int, list[Any]]:
    """The fields of a tensor that are read; raw data of other tensors is skipped by its length alone."""
    fields: dict[int, list[Any]] = {number: [] for number in (_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL)}
    raw: list[range] = []
    for number, value in _fields(data, place.start, place.stop):
        if number == _RAW and isinstance(value, range):
            raw.append(value)
        elif number == _DIMS and isinstance(value, range):  # packed
            at = value.start
            while at < value.stop:
                size, at = _varint(data, at, value.stop)
                fields[number].append(size)
        elif number in fields:
            fields[number].append(data[value.start : value.stop] if isinstance(value, range) else value)
    if fields[_NAME] == [TENSOR.encode()]:
        fields[_RAW] = [data[value.start : value.stop] for value in raw]
    return fields


def _pair(entry: bytes) -> tuple[str, str]:
    """Key and value of an entry about external data."""
    parts = {number: entry[place.start : place.stop] for number, place in _fields(entry, 0, len(entry))}  # type: ignore[union-attr]
    return parts[_KEY].decode(), parts[_VALUE].decode()


def _fields(data: Any, at: int, end: int) -> Iterator[tuple[int, int | range]]:
    """Number and content of each field of a message: a whole number, or where its bytes are.

    Raises:
        ValueError: The message is cut or of another format.
    """
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of the unknown kind {wire}")
        if length > end - at:
            raise ValueError("a field goes beyond the end")
        yield number, range(at, at + length)
        at += length


def _varint(data: Any, at: int, end: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError("a number goes beyond the end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")
