"""Quantise a GGUF file with llama.cpp's own quantiser, and say what type each tensor became."""

import ctypes
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import DelrecError


@dataclass(frozen=True)
class _Mix:
    """Types by place.

    Attributes:
        body: Of every matrix of the transformer that no pattern names.
        rows: Of the token rows: text, soft prompt, items, in and out.
        finer: Regular expression over tensor names -> type; ``{last}`` is the number of the last layer.
    """

    body: str
    rows: str
    finer: Mapping[str, str]


# Without `pure` some tensors become K-quants, which do not fit a width that is no multiple of 256; so each mix says
# what every tensor becomes. Token rows stay at 8 bits or more: they are the recommender's own answers.
_MIXES = {
    "q4_0": _Mix("q4_0", "q8_0", {}),
    "iq4_nl": _Mix("iq4_nl", "q8_0", {}),
    # The first layer, the last one, and the smallest matrices, in 8 bits.
    "iq4_mix": _Mix("iq4_nl", "q8_0", {r"blk\.(0|{last})\.": "q8_0", r"attn_(k|v)\.weight": "q8_0"}),
    "q5_0": _Mix("q5_0", "q8_0", {}),
    "q8_0": _Mix("q8_0", "q8_0", {}),
    "f16": _Mix("f16", "f16", {}),
    "bf16": _Mix("bf16", "bf16", {}),
}
# See `onnx_weights` for what each is; here so that naming one needs no ONNX package.
ONNX_QUANTS = ("int4", "int8", "int8_block", "f16", "fp32")
QUANTS = tuple(_MIXES)


def quantise(
    source: Path, target: Path, quant: str, threads: int, importance: Mapping[str, Floats] | None = None
) -> dict[str, int]:
    """Write ``target`` from the F16 file ``source``.

    Args:
        source: As written by ``write_gguf``.
        target: New file.
        quant: One of ``QUANTS``.
        threads: Cores to use.
        importance: Mean square of each input column by tensor name; none: all count the same.

    Returns:
        How many tensors have each type, counted in the file written: no silent fall-back.

    Raises:
        DelrecError: llama.cpp refused.
    """
    import gguf
    import llama_cpp

    from delrec_lite.runtime.llama import silence

    silence()
    mix = _MIXES[quant]
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mix.body.upper()}")
    params.pure = True
    rows = int(gguf.GGMLQuantizationType[mix.rows.upper()])
    params.token_embedding_type = rows
    params.output_tensor_type = rows
    held: list[Any] = []  # C reads these while it works
    if mix.finer:
        last = str(_layers(gguf.GGUFReader(source)) - 1)
        finer = {pattern.replace("{last}", last): kind for pattern, kind in mix.finer.items()}
        held.append(_overrides(llama_cpp, gguf, finer))
        params.tt_overrides = held[-1]
    if importance:
        held.append(_importance(llama_cpp, importance))
        params.imatrix = held[-1][0]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise DelrecError(f"llama.cpp could not quantise {source.name} to {quant}", "is there room on the disk?")
    types = Counter(t.tensor_type.name for t in gguf.GGUFReader(target).tensors)
    return dict(sorted(types.items()))


def _layers(reader: Any) -> int:
    return int(next(f.contents() for name, f in reader.fields.items() if name.endswith(".block_count")))


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
