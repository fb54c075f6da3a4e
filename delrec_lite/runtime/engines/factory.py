"""The engines by name, and the choice of one for a bundle: by its files, the installed packages and the user's wish.

Reading the records imports neither engines nor numpy, because ``--help`` and ``doctor`` list the engines too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from delrec_lite.errors import BundleError, MissingPackageError, install_line
from delrec_lite.registry import Registry

if TYPE_CHECKING:
    from delrec_lite.runtime.bundle import Bundle
    from delrec_lite.runtime.engines.base import Engine

AUTO = "auto"
GROUP = "delrec_lite.engines"


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be chosen.

    Attributes:
        name: What ``--engine`` calls it.
        format: Of the model files that it reads, as a bundle's manifest has it: ``gguf`` or ``onnx``.
        opener: Makes the engine from a bundle and a number of threads (None: the cores allowed). Given as
            ``module:callable`` it is imported when a bundle is opened.
        package: The package that computes, by its name on the package index; empty: the opener needs no other.
        install: The command that installs it.
        state_opener: Like ``opener``: makes a ``StateEngine``, for bundles with an item index; empty: there is none.
    """

    name: str
    format: str
    opener: "str | Callable[[Bundle, int | None], Engine]"
    package: str = ""
    install: str = ""
    state_opener: "str | Callable[[Bundle, int | None], Engine]" = ""

    @property
    def installed(self) -> bool:
        """Whether its package is installed."""
        try:
            return not self.package or bool(version(self.package))
        except PackageNotFoundError:
            return False

    def open(self, bundle: "Bundle", threads: int | None, states: bool = False) -> "Engine":
        """The engine over a bundle, with ``states`` as a ``StateEngine``; raises what ``open_engine`` does."""
        given = self.state_opener if states else self.opener
        opener: Any = resolve_name(given) if isinstance(given, str) else given
        engine: Engine = opener(bundle, threads)
        return engine


LLAMA_CPP = EngineKind(
    name="llama.cpp",
    format="gguf",
    opener="delrec_lite.runtime.engines.llama_cpp:LlamaEngine",
    package="llama-cpp-python",
    install=install_line("llama_cpp"),
    state_opener="delrec_lite.runtime.engines.llama_trunk:LlamaTrunkEngine",
)
ONNX_RUNTIME = EngineKind(
    name="onnxruntime",
    format="onnx",
    opener="delrec_lite.runtime.engines.onnx:OnnxEngine",
    package="onnxruntime",
    install=install_line("onnxruntime"),
)
# ``auto`` takes the first that is installed and reads the bundle's format.
ENGINES = Registry("engine", EngineKind, GROUP, (LLAMA_CPP, ONNX_RUNTIME))


def register_engine(kind: EngineKind) -> EngineKind:
    """Register an engine in this process; see ``Registry.register``.

    A package that installs an engine names its record in the entry-point group ``delrec_lite.engines`` instead.
    """
    return ENGINES.register(kind)


def open_engine(bundle: "Bundle", name: str = AUTO, threads: int | None = None, exact: bool = True) -> "Engine":
    """Load a bundle's model.

    Args:
        bundle: Opened.
        name: Of an engine; ``auto`` takes the first that is installed and reads the bundle's format.
        threads: Default: the cores allowed.
        exact: Leave a bundle's item index unread. False: the engine has the index, see ``CoarseEngine``, if there is
            one and this engine can use it.

    Raises:
        BundleError: No such model in the bundle, or it does not load.
        MissingPackageError: The package of no engine for the bundle's formats is installed.
        UsageError: No engine of that name.
    """
    from delrec_lite.runtime.engines.additions import with_additions
    from delrec_lite.runtime.engines.indexed import open_indexed
    from delrec_lite.runtime.manifest import REMEDY

    missing: MissingPackageError | None = None
    for kind in ENGINES if name == AUTO else [ENGINES[name]]:
        if kind.format not in bundle.formats:
            continue
        try:
            states = partial(kind.open, bundle, threads, states=True) if kind.state_opener else None
            indexed = None if exact else open_indexed(bundle, kind.name, states)
            return indexed or with_additions(kind.open(bundle, threads), bundle)
        except MissingPackageError as error:
            missing = missing or error
    if missing is not None:
        raise missing
    missing_file = "model that an engine here reads" if name == AUTO else f"{ENGINES[name].format.upper()} file"
    raise BundleError(f"{bundle.folder} holds no {missing_file}", REMEDY)
