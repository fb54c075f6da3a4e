"""Quantise a GGUF file with llama.cpp's quantiser, and read the type of each written tensor."""

import ctypes
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import DelrecError
from delrec_lite.quantisations import GGUF, Quantisation


@dataclass(frozen=True)
class Types:
    """The types of the tensors of a GGUF file.

    Attributes:
        tensors: Type of every tensor, read from the written file: ``Q8_0``.
        unfit: Tensors whose rows are not whole blocks of the intended type, and that type.
    """

    tensors: dict[str, str]
    unfit: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by type."""
        return dict(sorted(Counter(self.tensors.values()).items()))

    def unfit_line(self, quant: str) -> str:
        """One line about ``unfit``; empty if all tensors fit."""
        if not self.unfit:
            return ""
        pairs = sorted(Counter((intended, self.tensors[name]) for name, intended in self.unfit.items()).items())
        changes = ", ".join(f"{n} {intended} became {kind}" for (intended, kind), n in pairs)
        total = len([name for name in self.tensors if name.startswith("blk.") and not name.endswith("norm.weight")])
        return f"{quant}: {len(self.unfit)} of {total} tensors have rows that are no whole blocks of it: {changes}"


def quantise(
    source: Path, target: Path, quant: str, threads: int, importance: Mapping[str, Floats] | None = None
) -> Types:
    """Write ``target`` from the F16 file ``source``.

    Args:
        source: As written by ``write_gguf``.
        target: New file.
        quant: Name of a quantisation for GGUF.
        threads: Number of threads.
        importance: Mean square of each input column by tensor name; None: all columns are equally important.

    Returns:
        The type of every tensor, read from the written file.

    Raises:
        DelrecError: llama.cpp failed, or a tensor has another type than requested.
        UsageError: No quantisation has this name.
    """
    import gguf

    from delrec_lite.runtime.engines.llama_context import import_llama_cpp

    llama_cpp = import_llama_cpp()
    quantisation = GGUF[quant]
    intended = _intended_types(gguf.GGUFReader(source), quantisation)
    unfit = {name: kind for name, (kind, width) in intended.items() if width % _block(gguf, kind)}
    requested = {
        name: quantisation.fallbacks.get(kind, kind) if name in unfit else kind for name, (kind, _) in intended.items()
    }
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantisation.file_type or quantisation.layers.upper()}")
    params.pure = True
    rows = int(gguf.GGMLQuantizationType[quantisation.rows.upper()])
    params.token_embedding_type = rows
    params.output_tensor_type = rows
    buffers: list[Any] = []  # must stay alive while llama.cpp reads them
    if patterns := _patterns({name: kind for name, kind in requested.items() if kind != quantisation.layers}):
        buffers.append(_overrides(llama_cpp, gguf, patterns))
        params.tt_overrides = buffers[-1]
    if importance:
        buffers.append(_importance(llama_cpp, importance))
        params.imatrix = buffers[-1][0]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise DelrecError(f"llama.cpp could not quantise {source.name} to {quant}", "is there room on the disk?")
    tensors = types_of(target).tensors
    for name, kind in requested.items():
        if tensors[name] != kind.upper():
            raise DelrecError(
                f"llama.cpp made {name} {tensors[name]}, not {kind.upper()}",
                f"choose another quantisation than {quant}",
            )
    return Types(tensors, {name: kind.upper() for name, kind in unfit.items()})


def types_of(path: Path) -> Types:
    """The types of the tensors of a GGUF file."""
    import gguf

    return Types({t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}, {})


def _intended_types(reader: Any, quantisation: Quantisation) -> dict[str, tuple[str, int]]:
    """The intended type of every matrix of the transformer, and the width of its rows."""
    layers = int(next(f.contents() for name, f in reader.fields.items() if name.endswith(".block_count")))
    more = "|".join(str(layer) for layer in range(layers) if _more_bits(layer, layers))
    overrides = {
        pattern.replace("{last}", str(layers - 1)).replace("{more}", more): kind
        for pattern, kind in quantisation.overrides.items()
    }
    intended = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            kinds = (kind for pattern, kind in overrides.items() if re.search(pattern, tensor.name))
            intended[tensor.name] = (next(kinds, quantisation.layers), int(tensor.shape[0]))
    return intended


def _more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M uses more bits for values and last matrix: the ends, every third layer between (llama.cpp)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _block(gguf: Any, kind: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][0])


def _patterns(types: Mapping[str, str]) -> dict[str, str]:
    """Type by regular expression; few of them, because llama.cpp tries every one on every tensor."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name, kind in types.items():
        _, layer, part = name.split(".", 2)
        layers.setdefault((part, kind), []).append(layer)
    return {rf"^blk\.({'|'.join(numbers)})\.{re.escape(part)}$": kind for (part, kind), numbers in layers.items()}


def _overrides(llama_cpp: Any, gguf: Any, patterns: Mapping[str, str]) -> Any:
    """A C array that ends with a null pattern."""
    array = (llama_cpp.llama_model_tensor_override * (len(patterns) + 1))()
    for entry, (pattern, kind) in zip(array, patterns.items(), strict=False):
        entry.pattern = pattern.encode()
        entry.type = int(gguf.GGMLQuantizationType[kind.upper()])
    return array


def _importance(llama_cpp: Any, importance: Mapping[str, Floats]) -> tuple[Any, list[Any]]:
    """A C array that ends with a null name, and the arrays that it points to."""
    array = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    arrays = []
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        numbers = np.ascontiguousarray(values, np.float32)
        arrays.append(numbers)
        entry.name = name.encode()
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(numbers)
    return array, arrays
