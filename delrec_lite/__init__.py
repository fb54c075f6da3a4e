"""delrec-lite: distil a sequential recommender into an LLM and serve it, quantised, on a CPU.

Importing this package imports no torch and no engine; ``Recommender`` is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from delrec_lite.errors import DelrecError
from delrec_lite.version import __version__

if TYPE_CHECKING:
    from delrec_lite.runtime.recommender import Recommender

__all__ = ["DelrecError", "Recommender", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Recommender":
        from delrec_lite.runtime.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
