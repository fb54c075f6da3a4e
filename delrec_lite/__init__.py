"""delrec-lite: distil a sequential recommender into an LLM and serve it, quantised, on a CPU.

Importing this package imports no torch and no engine; everything but the errors is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from delrec_lite.errors import DelrecError
from delrec_lite.version import __version__

if TYPE_CHECKING:
    from delrec_lite.frames.dataset import Dataset
    from delrec_lite.frames.model import DelRec
    from delrec_lite.frames.pulled import pull_frames
    from delrec_lite.runtime.recommender import Recommender

__all__ = ["Dataset", "DelRec", "DelrecError", "Recommender", "__version__", "pull_frames"]
_MODULES = {
    "Dataset": "delrec_lite.frames.dataset",
    "DelRec": "delrec_lite.frames.model",
    "Recommender": "delrec_lite.runtime.recommender",
    "pull_frames": "delrec_lite.frames.pulled",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
