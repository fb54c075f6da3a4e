"""Whether this processor has the instructions that the installed llama.cpp was compiled for.

llama.cpp is compiled for the machine that installs it; copied to a lesser one it dies with SIGILL when it starts.
Loading the library and asking it executes none of those instructions (checked on emulated Nehalem and Haswell
processors).
"""

from collections.abc import Callable, Collection
from typing import Any

from delrec_lite import machine
from delrec_lite.errors import MissingPackageError

REBUILD = (
    "compile it on this machine: pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python "
    "llama-cpp-python; or serve an ONNX bundle, which runs here"
)
# By ggml's names, in the order in which a processor lacks them: the names of ``machine.cpu_features``.
_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
}


def check_instructions(library: Any, features: Collection[str] | None = None) -> None:
    """Stop before llama.cpp starts and the process dies.

    Args:
        library: Its loaded library; symbols of the libraries that it needs are found through it (not on Windows).
        features: Of this processor; default: ``machine.cpu_features()``. Nothing is checked if they are unknown.

    Raises:
        MissingPackageError: It was compiled for instructions that this processor lacks.
    """
    if not machine.runs_x86():
        return
    available = machine.cpu_features() if features is None else features
    missing = [name for name in compiled_features(library) if name not in available] if available else []
    if missing:
        raise MissingPackageError(
            f"the installed llama.cpp was compiled for {', '.join(missing)}, which this processor "
            f"({machine.cpu_name()}) lacks",
            REBUILD,
        )


def compiled_features(library: Any) -> list[str]:
    """What llama.cpp was compiled for, of the features that this package knows; arguments as above."""
    found = []
    for ggml_name, feature in _FEATURES.items():
        has: Callable[[], int] | None = getattr(library, f"ggml_cpu_has_{ggml_name}", None)
        if has is not None and has():
            found.append(feature)
    return found
