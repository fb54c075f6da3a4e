"""Opens and runs ONNX files of a bundle in ONNX Runtime, without its log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite import spinning
from delrec_lite.data.types import Ints
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, install_line
from delrec_lite.runtime.manifest import REMEDY

_FATAL = 4


def open_session(path: Path, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: The ``.onnx`` file; its weights are in a file beside it.
        threads: At least 1.

    Raises:
        BundleError: ONNX Runtime does not load the file.
        MissingPackageError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "serving an ONNX bundle needs onnxruntime, which is not installed", install_line("onnxruntime")
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin after an answer keep a core busy: beside them llama.cpp took 82 ms instead of 28.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in spinning.ONNX_RUNTIME.items():
        options.add_session_config_entry(name, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package has a class for each of a dozen error codes
        raise BundleError(f"ONNX Runtime cannot load {path}: {_first_line(error)}", REMEDY) from error


def run(session: Any, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """Evaluate.

    Raises:
        DelrecError: ONNX Runtime reports an error.
    """
    try:
        results: list[Any] = session.run(outputs, feeds)
    except Exception as error:
        raise DelrecError(
            f"ONNX Runtime could not evaluate: {_first_line(error)}", "free some memory and try again"
        ) from error
    return results


def shapes(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Name -> shape of a session's inputs or outputs; free dimensions are strings."""
    return {value.name: list(value.shape) for value in values}


def padded(rows: Sequence[Sequence[int]]) -> Ints:
    """Item indices as one array ``[rows, longest]``, shorter rows filled with -1."""
    array = np.full((len(rows), max(len(row) for row in rows)), -1, np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
