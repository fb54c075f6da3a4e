"""Checks a GGUF file before llama.cpp opens it: is it one that export writes, complete and consistent?

llama.cpp ends the whole process on some malformed files (two equal token texts, a head count of 0, more layers than it
has room for), so inconsistent files must not reach it. What llama.cpp refuses by itself (a matrix of another shape) is
not checked here.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.architectures import gguf_architectures, gguf_names
from delrec_lite.errors import BundleError
from delrec_lite.runtime.gguf.header import (
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    TENSOR_TYPES,
    UINT32,
    Header,
    Value,
    read_header,
)

# Whole numbers with their bounds. The upper bounds keep a false number from allocating all the memory.
_COUNTS = {
    "context_length": (1, 1 << 24),
    "embedding_length": (1, 1 << 16),
    "block_count": (1, 512),
    "feed_forward_length": (1, 1 << 20),
    "attention.head_count": (1, 1024),
    "attention.head_count_kv": (1, 1024),
}
_OPTIONAL_COUNTS = {
    "vocab_size": (1, 1 << 24),
    "attention.key_length": (2, 4096),
    "attention.value_length": (2, 4096),
    "attention.sliding_window": (1, 1 << 24),
    "rope.dimension_count": (2, 4096),
    "rope.scaling.original_context_length": (1, 1 << 24),
}
_FLOATS = {
    "attention.layer_norm_rms_epsilon": (1e-12, 0.1),
    "rope.freq_base": (1.0, 1e9),
    "rope.freq_base_swa": (1.0, 1e9),
    "rope.scaling.factor": (1e-3, 1e3),
    "rope.scaling.attn_factor": (1e-3, 1e3),
    "attn_logit_softcapping": (1e-3, 1e6),
    "final_logit_softcapping": (1e-3, 1e6),
}
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_OTHER_KEYS = ("attention.sliding_window_pattern", "rope.scaling.type", "attention.causal", "pooling_type")
_REQUIRED_FLOATS = ("attention.layer_norm_rms_epsilon",)
_TOKENIZER_TEXTS = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template")
_TOKENIZER_LISTS = {
    "tokenizer.ggml.tokens": STRING,
    "tokenizer.ggml.token_type": INT32,
    "tokenizer.ggml.scores": FLOAT32,
    "tokenizer.ggml.merges": STRING,
}
_TOKEN_ID = re.compile(r"tokenizer\.ggml\.[a-z]+_token_id$")
_TOKEN_FLAG = re.compile(r"tokenizer\.ggml\.(add_(bos|eos|sep)_token|add_space_prefix|remove_extra_whitespaces)$")
_IGNORED_PREFIXES = ("general.", "quantize.imatrix.", "delrec.")
_BLOCK = re.compile(r"blk\.(\d+)\.")
_TOKEN_TYPES = range(1, 7)


def check_gguf(path: Path, architecture: str | None = None) -> Header:
    """Read a GGUF file's header and check that it is consistent.

    Args:
        path: The file.
        architecture: Its family as the manifest has it, by its name in `transformers` (``gemma3_text``).

    Returns:
        The header.

    Raises:
        BundleError: What is wrong with it.
    """
    header = read_header(path)
    try:
        arch = _architecture(header.values)
        if architecture is not None and architecture not in [record.name for record in gguf_architectures(arch)]:
            raise ValueError(f"it is a {arch} model, its manifest says {architecture!r}")
        _tensors(header, arch, _numbers(header.values, arch), _tokenizer(header.values))
    except ValueError as error:
        raise BundleError(f"{path} is not a GGUF file that export writes: {error}", "export the run again") from error
    return header


def _architecture(values: Mapping[str, Value]) -> str:
    arch = values.get("general.architecture", Value(STRING, "")).value
    if not gguf_architectures(arch):
        raise ValueError(f"its architecture is {arch!r}; known are {', '.join(gguf_names())}")
    for key in values:
        shape = key.removeprefix(f"{arch}.") in {*_COUNTS, *_OPTIONAL_COUNTS, *_FLOATS, *_OTHER_KEYS}
        tokenizer = key in _TOKENIZER_TEXTS or key in _TOKENIZER_LISTS or _TOKEN_ID.match(key) or _TOKEN_FLAG.match(key)
        if not shape and not tokenizer and not key.startswith(_IGNORED_PREFIXES):
            raise ValueError(f"the key {key!r} is unknown")
    scaling = values.get(f"{arch}.rope.scaling.type")
    if scaling is not None and (scaling.listed or scaling.value not in _ROPE_SCALING):
        raise ValueError(f"{arch}.rope.scaling.type is {_shown(scaling)}")
    return str(arch)


def _numbers(values: Mapping[str, Value], arch: str) -> int:
    """Check the numbers of the model's shape; returns the width."""
    counts: dict[str, int] = {}
    for name, (minimum, maximum) in {**_COUNTS, **_OPTIONAL_COUNTS}.items():
        value = values.get(f"{arch}.{name}")
        if value is None and name in _OPTIONAL_COUNTS:
            continue
        if value is None or value.listed or value.kind != UINT32 or not minimum <= value.value <= maximum:
            raise ValueError(f"{arch}.{name} is {_shown(value)}, not a number from {minimum} to {maximum}")
        counts[name] = value.value
    for name, (low, high) in _FLOATS.items():
        value = values.get(f"{arch}.{name}")
        if value is None and name not in _REQUIRED_FLOATS:
            continue
        if value is None or value.listed or value.kind != FLOAT32 or not _within(value.value, low, high):
            raise ValueError(f"{arch}.{name} is {_shown(value)}, not a number from {low:g} to {high:g}")
    heads, width = counts["attention.head_count"], counts["embedding_length"]
    if heads % counts["attention.head_count_kv"]:
        raise ValueError(f"{heads} heads cannot share {counts['attention.head_count_kv']} pairs of keys and values")
    if "attention.key_length" not in counts and width % heads:
        raise ValueError(f"a width of {width} cannot be split among {heads} heads")
    key_length = counts.get("attention.key_length", width // heads)
    rotated = counts.get("rope.dimension_count", key_length)
    if rotated > key_length or rotated % 2:
        raise ValueError(f"{arch}.rope.dimension_count is {rotated} of {key_length}")
    tokens = values.get("tokenizer.ggml.tokens")
    if tokens is not None and "vocab_size" in counts and counts["vocab_size"] != len(tokens.value):
        raise ValueError(f"{arch}.vocab_size is {counts['vocab_size']}, there are {len(tokens.value)} tokens")
    return width


def _tokenizer(values: Mapping[str, Value]) -> int:
    """Check the vocabulary; returns its size."""
    for key, kind in _TOKENIZER_LISTS.items():
        value = values.get(key)
        if value is not None and not (value.listed and value.kind == kind):
            raise ValueError(f"{key} is of another type")
    for key in _TOKENIZER_TEXTS:
        value = values.get(key)
        if value is not None and (value.listed or value.kind != STRING):
            raise ValueError(f"{key} is no text")
    if "tokenizer.ggml.model" not in values or "tokenizer.ggml.tokens" not in values:
        raise ValueError("it has no tokenizer")
    texts: list[bytes] = values["tokenizer.ggml.tokens"].value
    if not texts or not all(texts) or len(set(texts)) != len(texts):
        raise ValueError("a token has no text, or two have the same")
    # All are decoded at once: NUL ends every UTF-8 sequence, so an invalid text is invalid in the joined bytes too.
    b"\0".join(texts).decode("utf-8")
    types = values.get("tokenizer.ggml.token_type")
    if types is None or len(types.value) != len(texts):
        raise ValueError("tokens and their types differ in number")
    if types.value.min() < _TOKEN_TYPES.start or types.value.max() >= _TOKEN_TYPES.stop:
        raise ValueError("a token has an unknown type")
    scores = values.get("tokenizer.ggml.scores")
    if scores is not None and (len(scores.value) != len(texts) or not np.isfinite(scores.value).all()):
        raise ValueError("tokens and their scores differ in number, or a score is no number")
    for merge in values.get("tokenizer.ggml.merges", Value(STRING, [])).value:
        first, gap, second = merge.partition(b" ")
        if not (first and gap and second):
            raise ValueError(f"the merge {merge[:40]!r} is not two pieces")
    b"\0".join(values.get("tokenizer.ggml.merges", Value(STRING, [])).value).decode("utf-8")
    for key, value in values.items():
        if _TOKEN_ID.match(key) and (value.listed or value.kind != UINT32 or value.value >= len(texts)):
            raise ValueError(f"{key} is {_shown(value)}, which is no token")
        if _TOKEN_FLAG.match(key) and (value.listed or value.kind != BOOL):
            raise ValueError(f"{key} is {_shown(value)}, neither true nor false")
    return len(texts)


def _tensors(header: Header, arch: str, width: int, vocabulary: int) -> None:
    for name in ("token_embd.weight", "output.weight"):
        tensor = header.tensors.get(name)
        if tensor is None or tensor.shape != (width, vocabulary):
            shape = None if tensor is None else tensor.shape
            raise ValueError(f"{name} has the shape {shape}, not {(width, vocabulary)}")
    for name, tensor in header.tensors.items():
        if len(tensor.shape) == 1 and TENSOR_TYPES[tensor.kind][0] != "F32":
            raise ValueError(f"{name} is {TENSOR_TYPES[tensor.kind][0]}; vectors are F32")
        if len(tensor.shape) > 2:
            raise ValueError(f"{name} has {len(tensor.shape)} dimensions")
    blocks = {int(block.group(1)) for name in header.tensors if (block := _BLOCK.match(name))}
    count = header.values[f"{arch}.block_count"].value
    if blocks != set(range(count)):
        raise ValueError(f"{arch}.block_count is {count}, there are tensors of {len(blocks)} blocks")


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _shown(value: Value | None) -> Any:
    return "missing" if value is None else "a list" if value.listed else repr(value.value)[:40]
