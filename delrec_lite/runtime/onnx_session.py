"""Opens and runs ONNX files of a bundle in ONNX Runtime, without its log."""

import ctypes
import mmap
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from delrec_lite import spinning
from delrec_lite.data.types import Ints
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, install_line
from delrec_lite.runtime.manifest import REMEDY

_FATAL = 4
_MAPS = Path("/proc/self/maps")
_MAP_FIXED = 0x10  # Linux, on all its processors that ONNX Runtime is built for
_sessions: WeakSet[Any] = WeakSet()


def open_session(path: Path, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: The ``.onnx`` file; its weights are in a file beside it. Both may change afterwards.
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
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package has a class for each of a dozen error codes
        raise BundleError(f"ONNX Runtime cannot load {path}: {_first_line(error)}", REMEDY) from error
    _copy_mapped_pages(path.with_name(f"{path.name}.data").resolve())
    _sessions.add(session)
    return session


def _copy_mapped_pages(weights: Path) -> None:
    """Put copies in the place of the pages that ONNX Runtime maps from a file, on Linux.

    It keeps a tenth of the weights mapped (12 of 113 MB for SmolLM2-135M in int8; the others it repacks). A change of
    the file would change the answers, and a file that is cut short would kill the process, even where the pages were
    written to. Its own way to load weights from memory takes twice the memory while it loads.
    """
    try:
        lines = os.fsdecode(_MAPS.read_bytes()).splitlines()
    except OSError:
        return
    c = ctypes.CDLL(None, use_errno=True)
    c.mmap.restype = ctypes.c_void_p
    c.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    for line in lines:
        addresses, access, *_, path = line.split(maxsplit=5)
        if access != "rw-p" or path.removesuffix(" (deleted)") != str(weights):
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        content = ctypes.string_at(start, end - start)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        if c.mmap(start, end - start, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != start:
            raise DelrecError(f"no memory for the weights of {weights}", "free some memory and try again")
        ctypes.memmove(start, content, len(content))


def _never_free() -> None:
    """Free nothing of ONNX Runtime in a forked child: that would wait for threads which a fork does not copy.

    Its sessions are kept, and its clean-up at the end of a process, which runs after Python's, is left out where C has
    ``on_exit`` (glibc).
    """
    if "onnxruntime" not in sys.modules:
        return
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    c = ctypes.CDLL(None)
    if hasattr(c, "on_exit"):
        c.on_exit(c._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_never_free)


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
