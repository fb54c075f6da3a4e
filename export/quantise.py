"""Quantise a GGUF file with llama.cpp's own quantiser, and say what type each tensor became."""

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
    """What the tensors of a GGUF file became.

    Attributes:
        tensors: Type of every tensor, read from the file written: ``Q8_0``.
        unfit: Those whose rows are not whole blocks of the type that they were meant to have, and that type.
    """

    tensors: dict[str, str]
    unfit: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors have each type."""
        return dict(sorted(Counter(self.tensors.values()).items()))

    def told(self, quant: str) -> str:
        """One line on what did not fit; empty where all did."""
        if not self.unfit:
            return ""
        pairs = sorted(Counter((meant, self.tensors[name]) for name, meant in self.unfit.items()).items())
        became = ", ".join(f"{n} {meant} became {kind}" for (meant, kind), n in pairs)
        of = len([name for name in self.tensors if name.startswith("blk.") and not name.endswith("norm.weight")])
        return f"{quant}: {len(self.unfit)} of {of} tensors have rows that are no whole blocks of it: {became}"


def quantise(
    source: Path, target: Path, quant: str, threads: int, importance: Mapping[str, Floats] | None = None
) -> Types:
    """Write ``target`` from the F16 file ``source``.

    Args:
        source: As written by ``write_gguf``.
        target: New file.
        quant: Name of a quantisation for GGUF.
        threads: Cores to use.
        importance: Mean square of each input column by tensor name; none: all count the same.

    Returns:
        What every tensor became, read from the file written.

    Raises:
        DelrecError: llama.cpp refused, or gave a tensor another type than it was told.
        UsageError: No quantisation of this name.
    """
    import gguf
    import llama_cpp

    from delrec_lite.runtime.engines.llama_context import import_llama_cpp

    import_llama_cpp()
    quantisation = GGUF[quant]
    meant = _meant(gguf.GGUFReader(source), quantisation)
    unfit = {name: kind for name, (kind, width) in meant.items() if width % _block(gguf, kind)}
    wanted = {
        name: quantisation.fallbacks.get(kind, kind) if name in unfit else kind for name, (kind, _) in meant.items()
    }
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantisation.file_type or quantisation.layers.upper()}")
    params.pure = True
    rows = int(gguf.GGMLQuantizationType[quantisation.rows.upper()])
    params.token_embedding_type = rows
    params.output_tensor_type = rows
    held: list[Any] = []  # C reads these while it works
    if finer := _patterns({name: kind for name, kind in wanted.items() if kind != quantisation.layers}):
        held.append(_overrides(llama_cpp, gguf, finer))
        params.tt_overrides = held[-1]
    if importance:
        held.append(_importance(llama_cpp, importance))
        params.imatrix = held[-1][0]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise DelrecError(f"llama.cpp could not quantise {source.name} to {quant}", "is there room on the disk?")
    tensors = types_of(target).tensors
    for name, kind in wanted.items():
        if tensors[name] != kind.upper():
            raise DelrecError(
                f"llama.cpp made {name} {tensors[name]}, not {kind.upper()}",
                f"choose another quantisation than {quant}",
            )
    return Types(tensors, {name: kind.upper() for name, kind in unfit.items()})


def types_of(path: Path) -> Types:
    """What the tensors of a GGUF file are."""
    import gguf

    return Types({t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}, {})


def _meant(reader: Any, quantisation: Quantisation) -> dict[str, tuple[str, int]]:
    """Type that every matrix of the transformer should have, and the width of its rows."""
    layers = int(next(f.contents() for name, f in reader.fields.items() if name.endswith(".block_count")))
    more = "|".join(str(layer) for layer in range(layers) if _more_bits(layer, layers))
    finer = {
        pattern.replace("{last}", str(layers - 1)).replace("{more}", more): kind
        for pattern, kind in quantisation.overrides.items()
    }
    meant = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            kinds = (kind for pattern, kind in finer.items() if re.search(pattern, tensor.name))
            meant[tensor.name] = (next(kinds, quantisation.layers), int(tensor.shape[0]))
    return meant


def _more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M keeps a layer's values and last matrix finer: the ends, and every third between (llama.cpp)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _block(gguf: Any, kind: str) -> int:
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][0])


def _patterns(wanted: Mapping[str, str]) -> dict[str, str]:
    """Few regular expressions that name these tensors and no others: llama.cpp tries every one on every tensor."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name, kind in wanted.items():
        _, layer, part = name.split(".", 2)
        layers.setdefault((part, kind), []).append(layer)
    return {rf"^blk\.({'|'.join(numbers)})\.{re.escape(part)}$": kind for (part, kind), numbers in layers.items()}


def _overrides(llama_cpp: Any, gguf: Any, finer: Mapping[str, str]) -> Any:
    """A C array that ends with a null pattern."""
    array = (llama_cpp.llama_model_tensor_override * (len(finer) + 1))()
    for entry, (pattern, kind) in zip(array, finer.items(), strict=False):
        entry.pattern = pattern.encode()
        entry.type = int(gguf.GGMLQuantizationType[kind.upper()])
    return array


def _importance(llama_cpp: Any, importance: Mapping[str, Floats]) -> tuple[Any, list[Any]]:
    """A C array that ends with a null name, and the numbers that it points to."""
    array = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    kept = []
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        numbers = np.ascontiguousarray(values, np.float32)
        kept.append(numbers)
        entry.name = name.encode()
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(numbers)
    return array, kept
