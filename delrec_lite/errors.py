"""The errors of this package: each has a message, a hint and an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr


class DelrecError(Exception):
    """An error with a hint; the command line prints both and exits with ``exit_code``.

    Args:
        message: What is wrong and where (file, row, key), one line.
        hint: What to do, one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DelrecError):
    """An invalid argument: k = 0, an empty history, an unknown title."""

    exit_code = 2


class ConfigError(DelrecError):
    """An invalid recipe: unknown key, wrong type, value out of range."""

    exit_code = 3


class DataError(DelrecError):
    """Interactions or items that cannot be used."""

    exit_code = 4


class FetchError(DelrecError):
    """All mirrors failed (unreachable, truncated, a wrong sha256), or a database cannot be reached."""

    exit_code = 5


class BundleError(DelrecError):
    """A bundle that is corrupt, of another program, or of another schema version."""

    exit_code = 6


class MissingPackageError(DelrecError):
    """An optional package is not installed; ``install_line`` is its hint."""

    exit_code = 7


class ForkError(DelrecError):
    """What was loaded before a fork is used after it.

    Args:
        process: The process that loaded it.
    """

    def __init__(self, process: int) -> None:
        super().__init__(
            f"this recommender was loaded in process {process}, and a fork has no copy of its threads",
            "call Recommender.load in each process, after the fork",
        )


# The extra of each optional package, by import name.
EXTRAS = {
    "accelerate": "train",
    "bitsandbytes": "qlora",
    "duckdb": "data",
    "fastapi": "serve",
    "gguf": "gguf",
    "httpx2": "client",
    "huggingface_hub": "hub",
    "jinja2": "plots",
    "llama_cpp": "gguf",
    "matplotlib": "plots",
    "onnx": "train",
    "onnxruntime": "onnx",
    "opentelemetry": "otel",
    "optimum": "peers",
    "optuna": "tune",
    "peft": "train",
    "prometheus_client": "serve",
    "pyarrow": "data",
    "pydantic": "train",
    "ray": "ray",
    "safetensors": "train",
    "scipy": "train",
    "torch": "train",
    "transformers": "train",
    "uvicorn": "serve",
}


def install_line(module: str | None) -> str:
    """The command that installs the extra with ``module``; for an unknown module, all extras."""
    return f'pip install "delrec-lite[{EXTRAS.get((module or "").partition(".")[0], "all")}]"'


class StorageError(DelrecError):
    """A folder that cannot be written, or a full disk."""

    exit_code = 8


class OutOfMemoryError(DelrecError):
    """Training needs more memory than there is."""

    exit_code = 10


class GateError(DelrecError):
    """An export whose results differ too much from the trained model; no bundle was written."""

    exit_code = 9


def nearest_name(name: str, known_names: Iterable[str], least: float = 0.6) -> str | None:
    """The known name that looks most like ``name``, whatever its case; None if none is similar.

    Args:
        name: As typed.
        known_names: To choose from.
        least: Least similarity, from 0 to 1.
    """
    by_case = {known.lower(): known for known in known_names}
    nearest = get_close_matches(str(name)[:100].lower(), by_case, n=1, cutoff=least)
    return by_case[nearest[0]] if nearest else None


def did_you_mean(name: str, known_names: Iterable[str], more: str = "") -> str:
    """A hint for an unknown name: the nearest of ``known_names``, all of them, and ``more`` that it could be."""
    names = list(known_names)
    nearest = nearest_name(name, names)
    return (f"did you mean {nearest}? " if nearest else "") + f"one of {', '.join(names)}{more}"


def not_yaml(where: object, error: Exception) -> ConfigError:
    """The error for a text that a YAML parser refuses, in one line."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ConfigError(f"{where} is not valid YAML: {reason}", "correct this line")


# A few lines of YAML can stand for gigabytes.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 1, 80, 80


def short(value: object) -> str:
    """A value as an error shows it, however large it is."""
    return _SHORT.repr(value)
