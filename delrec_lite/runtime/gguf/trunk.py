"""A GGUF file without its items: what llama.cpp needs where the items are scored elsewhere.

A million items are a million tokens of the vocabulary, for which llama.cpp takes seconds to start and gigabytes, and
whose logits it computes with every history. In the file written here the vocabulary ends before them. It is read once
and never kept: it exists in memory where there are files in memory (Linux), else in the folder for temporary files.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.errors import StorageError
from delrec_lite.runtime.gguf.header import TENSOR_TYPES, Header, Tensor
from delrec_lite.runtime.gguf.rows import OUTPUT, TENSOR

_TOKENS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores")


@contextmanager
def trunk_file(header: Header, tokens: int) -> Iterator[Path]:
    """The path of a file like another, with its first tokens alone; it is gone at the end.

    Args:
        header: Of the whole file.
        tokens: How many tokens stay.

    Raises:
        StorageError: There is no room for it.
        MissingPackageError: The package gguf is not installed.
    """
    try:
        with _temporary() as path:
            _write(path, header, tokens)
            yield path
    except OSError as error:
        raise StorageError(
            f"no room for a copy of the model while it is loaded: {error}", "free some memory"
        ) from error


@contextmanager
def _temporary() -> Iterator[Path]:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("delrec-trunk")
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    descriptor, name = tempfile.mkstemp(".gguf")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()


def _write(path: Path, header: Header, tokens: int) -> None:
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    architecture = header.values["general.architecture"].value
    writer = GGUFWriter(path, architecture)
    for name, value in header.values.items():
        if name == "general.architecture":
            continue
        kind = GGUFValueType(value.kind)
        if value.listed:
            content = value.value[:tokens] if name in _TOKENS else value.value
            if len(content):
                listed = content if isinstance(content, list) else content.tolist()
                writer.add_key_value(name, listed, GGUFValueType.ARRAY, kind)
        else:
            number = tokens if name == f"{architecture}.vocab_size" else value.value
            writer.add_key_value(name, number, kind)
    for name, tensor in header.tensors.items():
        data = _bytes_of(header, tensor)
        kept = data[:tokens] if name in {TENSOR, OUTPUT} else data
        writer.add_tensor(name, kept, raw_dtype=GGMLQuantizationType(tensor.kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bytes_of(header: Header, tensor: Tensor) -> Any:
    """A tensor's bytes as GGUF stores them: uint8 ``[..., bytes of a row]``."""
    _, block, block_bytes = TENSOR_TYPES[tensor.kind]
    data = np.frombuffer(header.data, np.uint8, tensor.bytes, tensor.start)
    return data.reshape(*reversed(tensor.shape[1:]), tensor.shape[0] // block * block_bytes)
