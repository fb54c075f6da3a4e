"""Every error a user can meet: what was wrong, where, what to do, and the exit code of its kind."""

from collections.abc import Iterable
from difflib import get_close_matches


class DelrecError(Exception):
    """An error with a remedy; the command line prints both and exits with ``exit_code``.

    Args:
        message: What was wrong and where (file, row, key), one line.
        hint: What to do about it, one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DelrecError):
    """An argument that cannot be meant: k = 0, an empty history, an unknown title."""

    exit_code = 2


class ConfigError(DelrecError):
    """A recipe that does not read: unknown key, wrong type, value out of range."""

    exit_code = 3


class DataError(DelrecError):
    """Interactions or items that cannot be used."""

    exit_code = 4


class FetchError(DelrecError):
    """No mirror delivered: unreachable, truncated, or a wrong sha256."""

    exit_code = 5


class BundleError(DelrecError):
    """A bundle that is corrupt, foreign, or of another schema."""

    exit_code = 6


class MissingPackageError(DelrecError):
    """An optional package is not installed; ``install_line`` is its hint."""

    exit_code = 7


# The extra that holds each optional package, by the name it is imported under.
EXTRAS = {
    "accelerate": "train",
    "bitsandbytes": "qlora",
    "fastapi": "serve",
    "gguf": "gguf",
    "huggingface_hub": "train",
    "llama_cpp": "gguf",
    "matplotlib": "plots",
    "onnx": "train",
    "onnxruntime": "onnx",
    "optimum": "peers",
    "peft": "train",
    "prometheus_client": "serve",
    "pyarrow": "data",
    "pydantic": "train",
    "safetensors": "train",
    "scipy": "train",
    "torch": "train",
    "transformers": "train",
    "uvicorn": "serve",
}


def install_line(module: str | None) -> str:
    """The command that installs the extra with ``module``; of an unknown one, with all that there is."""
    return f'pip install "delrec-lite[{EXTRAS.get((module or "").partition(".")[0], "all")}]"'


class StorageError(DelrecError):
    """A folder that cannot be written, or a full disk."""

    exit_code = 8


class OutOfMemoryError(DelrecError):
    """Training needs more memory than there is."""

    exit_code = 10


class GateError(DelrecError):
    """An export that is not equal enough to what was trained; no bundle was left."""

    exit_code = 9


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is none of the ``known``: the nearest of them, and all of them."""
    names = list(known)
    nearest = get_close_matches(name, names, n=1)
    return (f"did you mean {nearest[0]}? " if nearest else "") + f"one of {', '.join(names)}"
