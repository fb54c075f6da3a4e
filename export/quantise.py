"""Quantise a GGUF file with llama.cpp's own quantiser, and say what type each tensor became."""

import ctypes
from collections import Counter
from pathlib import Path

from delrec_lite.errors import DelrecError

# The body's type. Token rows (text, soft prompt, items) are kept apart, see TOKEN_ROWS.
QUANTS = ("iq4_nl", "q4_0", "q8_0", "f16", "bf16")
TOKEN_ROWS = {"iq4_nl": "q8_0", "q4_0": "q8_0", "q8_0": "q8_0", "f16": "f16", "bf16": "bf16"}


def quantise(source: Path, target: Path, quant: str, threads: int) -> dict[str, int]:
    """Write ``target`` from the F16 file ``source``.

    Args:
        source: As written by ``write_gguf``.
        target: New file.
        quant: One of ``QUANTS``.
        threads: Cores to use.

    Returns:
        How many tensors have each type, counted in the file written: no silent fall-back.
    """
    import gguf
    import llama_cpp

    from delrec_lite.runtime.llama import silence

    silence()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant.upper()}")
    # Without `pure` some tensors become K-quants, which do not fit a width that is no multiple of 256.
    params.pure = True
    rows = int(gguf.GGMLQuantizationType[TOKEN_ROWS[quant].upper()])
    params.token_embedding_type = rows
    params.output_tensor_type = rows
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise DelrecError(f"llama.cpp could not quantise {source.name} to {quant}", "is there room on the disk?")
    types = Counter(t.tensor_type.name for t in gguf.GGUFReader(target).tensors)
    return dict(sorted(types.items()))
