"""Parts of an ONNX file: weights as external data, and linear layers for every quantisation.

- ``fp32``;
- ``f16``: stored in float16, converted to float32 when the session starts;
- ``int8``: dynamic, the fastest: one scale for each output channel, one for all activations of a layer (as ONNX
  Runtime's ``quantize_dynamic`` writes it); ``down_proj``, whose activations have outliers, in blocks;
- ``int8_block`` and ``int4``: blocks of 32 weights with a scale each, activations in blocks too, so that scores do not
  depend on the other rows of the batch (``MatMulNBits``, as ONNX Runtime's ``MatMulNBitsQuantizer`` writes it).

Measured on one AVX512-VNNI core, SmolLM2-135M with untrained items, 32 histories, correlation of scores with
float32 and milliseconds for 20 items: fp32 1.0000, 59; f16 1.0000, 57; int8_block 0.9999, 39; int8 0.9994, 26, with
``down_proj`` dynamic too 0.9986, 21; int4 0.987, 42.

Without VNNI, ONNX Runtime multiplies int8 layers with VPMADDUBSW, which adds the products of two neighbouring weights
in 16 bits and saturates. ``in_int8`` keeps every two neighbours small enough. Trained ``ml-100k-cpu``,
correlation of scores with float32 and share of the first ten, 200 histories with VNNI: with the full range 0.99955,
96.2%; as here 0.99945, 96.2%; with 7 bits per weight, the usual workaround, 0.99927, 94.6%. On an emulated AVX2
processor without VNNI: with the full range 0.917, 57%.
"""

import re
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from delrec_lite.quantisations import Quantisation

BITS = {"int4_block": 4, "int8_block": 8}
BLOCK = 32
# Multiply in int8, not in float32: with the default a 4-bit layer is no faster than a float32 one.
ACCURACY_INT8 = 4
ALIGN = 64
# Smaller arrays stay in the graph.
SMALL_BYTES = 1024


def in_int8(weight: Any) -> tuple[Any, Any]:
    """Quantise so that no 16-bit sum of two neighbouring products with activations of 0 to 255 saturates.

    Neighbours of the same sign add to at most 128: 255 * 128 is below 2^15. Products of opposite signs partly cancel.

    Args:
        weight: float32 ``[out, in]``.

    Returns:
        int8 ``[out, in]``, and the scales, float32 ``[out]``.
    """
    even, odd = weight[:, : weight.shape[1] // 2 * 2 : 2], weight[:, 1::2]
    pairs = np.where(even * odd > 0, np.abs(even + odd), 0)
    largest = np.maximum(np.abs(weight).max(1), pairs.max(1, initial=0))
    # 127, not 128: each of the two may be rounded up by half a step.
    scales = np.maximum(largest, np.float32(1e-12)) / np.float32(127)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


class Weights:
    """The external-data file of a graph, written tensor by tensor; a context manager.

    Args:
        path: New file in the folder of the ``.onnx`` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: list[TensorProto] = []
        self._file = path.open("wb")

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, name: str, array: Any) -> str:
        """Write an array; returns ``name``."""
        array = np.asarray(array, order="C")
        if array.nbytes < SMALL_BYTES:
            self.tensors.append(numpy_helper.from_array(array, name))
            return name
        self._file.write(b"\0" * (-self._file.tell() % ALIGN))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", self._file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        array.tofile(self._file)
        self.tensors.append(tensor)
        return name


class Graph:
    """A graph under construction; methods return the names of their output values.

    Attributes:
        quantisation: One for ONNX.
        nodes: Nodes so far.
        types: Number of linear layers by type.
        layer_weights: Number of weights of all linear layers so far.
        layer_bytes: Their size, scales included.
    """

    def __init__(self, weights: Weights, quantisation: Quantisation) -> None:
        self.weights = weights
        self.quantisation = quantisation
        self.nodes: list[onnx.NodeProto] = []
        self.types: Counter[str] = Counter()
        self.layer_weights = self.layer_bytes = 0
        self._constants: dict[Any, str] = {}

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output, named ``name``."""
        return self.ops(kind, *inputs, names=(name or f"value_{len(self.nodes)}",), **attributes)[0]

    def ops(self, kind: str, *inputs: str, names: tuple[str, ...], **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs."""
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """A constant int64 without dimensions."""
        return self._constant(np.array(value, np.int64))

    def _constant(self, array: Any) -> str:
        key = (array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weights.add(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def floats(self, name: str, array: Any) -> str:
        """A float array in the type in which the quantisation stores floats, converted to float32 when loaded."""
        if self.quantisation.rows == "float32":
            return self.weights.add(name, array.astype(np.float32))
        return self.op(
            "Cast", self.weights.add(name, array.astype(np.float16)), name=f"{name}_wide", to=TensorProto.FLOAT
        )

    def linear(self, x: str, name: str, weight: Any, bias: Any = None) -> str:
        """``x @ weight.T + bias``.

        Args:
            x: Float ``[..., in]``.
            name: Of the layer.
            weight: float32 ``[out, in]``.
            bias: float32 ``[out]``.
        """
        before = self.weights.bytes
        matches = (kind for pattern, kind in self.quantisation.overrides.items() if re.search(pattern, name))
        kind = next(matches, self.quantisation.layers)
        if kind in BITS:
            y = self._blocks(x, name, weight, BITS[kind])
        elif kind == "int8":
            y = self._dynamic(x, name, weight)
        elif ":" in kind:
            self.types[self.quantisation.name] += 1
            y = resolve_name(kind)(self, x, name, weight)
        else:
            self.types[kind] += 1
            y = self.op("MatMul", x, self.floats(name, weight.T))
        self.layer_weights += weight.size
        self.layer_bytes += self.weights.bytes - before
        return y if bias is None else self.op("Add", y, self.weights.add(f"{name}.bias", bias))

    def _dynamic(self, x: str, name: str, weight: Any) -> str:
        self.types["int8"] += 1
        narrow, scales = in_int8(weight)
        quantised = tuple(f"{name}.{part}" for part in ("x", "x_scale", "x_zero"))
        x, scale, zero = self.ops("DynamicQuantizeLinear", x, names=quantised)
        product = self.op("MatMulInteger", x, self.weights.add(name, narrow.T), zero)
        both = self.op("Mul", scale, self.weights.add(f"{name}.scales", scales))
        return self.op("Mul", self.op("Cast", product, to=TensorProto.FLOAT), both)

    def _blocks(self, x: str, name: str, weight: Any, bits: int) -> str:
        from onnxruntime.capi import _pybind_state as native

        self.types[f"int{bits}_block"] += 1
        out, width = weight.shape
        blocks = -(-width // BLOCK)
        columns = np.zeros((blocks * BLOCK, out), np.float32)
        columns[:width] = weight.T
        packed = np.zeros((out, blocks, BLOCK * bits // 8), np.uint8)
        scales = np.zeros((out, blocks), np.float32)
        zeros = np.zeros((out, -(-blocks * bits // 8)), np.uint8)
        quantise = getattr(native, f"quantize_matmul_{bits}bits")
        quantise(packed, columns, scales, zeros, BLOCK, out, width, True)
        shape = {"N": out, "K": width, "bits": bits, "block_size": BLOCK, "accuracy_level": ACCURACY_INT8}
        inputs = (x, self.weights.add(name, packed), self.weights.add(f"{name}.scales", scales))
        return self.op("MatMulNBits", *inputs, domain="com.microsoft", **shape)
