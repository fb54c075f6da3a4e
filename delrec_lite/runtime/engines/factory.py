"""Which engine evaluates a bundle: by what it holds, what is installed and what was asked for."""

from collections.abc import Callable
from typing import Literal

from delrec_lite.errors import BundleError, MissingPackageError, UsageError
from delrec_lite.runtime.bundle import REMEDY, Bundle
from delrec_lite.runtime.engines.additions import with_additions
from delrec_lite.runtime.engines.base import Engine

Kind = Literal["auto", "gguf", "onnx"]
KINDS: tuple[Kind, ...] = ("auto", "gguf", "onnx")


def open_engine(bundle: Bundle, kind: Kind = "auto", threads: int | None = None) -> Engine:
    """Load a bundle's model.

    Args:
        bundle: Opened.
        kind: ``auto`` takes the GGUF file where there is one and llama-cpp-python is installed, else the ONNX file.
        threads: Default: the cores allowed.

    Raises:
        BundleError: No such model in the bundle, or it does not load.
        MissingPackageError: No engine's package is installed for what the bundle holds.
        UsageError: No such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"no engine {kind!r}", f"one of {', '.join(KINDS)}")
    held: list[Callable[[], Engine]] = []
    if bundle.holds_gguf and kind in {"auto", "gguf"}:
        held.append(lambda: _gguf(bundle, threads))
    if bundle.holds_onnx and kind in {"auto", "onnx"}:
        held.append(lambda: _onnx(bundle, threads))
    missing: MissingPackageError | None = None
    for make in held:
        try:
            return with_additions(make(), bundle)
        except MissingPackageError as error:
            missing = missing or error
    if missing is not None:
        raise missing
    raise BundleError(f"{bundle.folder} holds no {'model' if kind == 'auto' else kind.upper() + ' file'}", REMEDY)


def _gguf(bundle: Bundle, threads: int | None) -> Engine:
    from delrec_lite.runtime.engines.llama_cpp import LlamaEngine

    return LlamaEngine(bundle, threads)


def _onnx(bundle: Bundle, threads: int | None) -> Engine:
    from delrec_lite.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(bundle, threads)
