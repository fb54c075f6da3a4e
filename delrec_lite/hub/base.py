"""Finds a decoder-only base: a name to pull, a local folder, a .gguf file, or an id of the Hugging Face Hub."""

import re
from pathlib import Path

from delrec_lite.cache_folder import cache_folder
from delrec_lite.console import Console
from delrec_lite.errors import DataError, UsageError, did_you_mean
from delrec_lite.files import sha256_of
from delrec_lite.hub.cache import Pulled
from delrec_lite.hub.huggingface import fetch_base, hub_folders
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import ASSETS, ENCODER

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w.-]+)?$")


def find_base(base: str, console: Console, cache: Path, first: str | None = None) -> Pulled:
    """The files of a base model.

    Local files come first, then names to pull, then the Hub.

    Args:
        base: ``smollm2-135m-instruct``, ``./my-model``, ``model.gguf``, or ``owner/name`` of the Hub, with
            ``@revision`` to pin a version.
        console: Shows a download.
        cache: Cache of this program; files of the Hub are in the Hub's cache (``HF_HOME``).
        first: The mirror to try first if a name is pulled.

    Raises:
        DataError: The folder contains no model.
        FetchError: The download failed, or ``DELREC_OFFLINE`` is set and the model is not in the cache.
        MissingPackageError: A Hub id, and huggingface_hub is not installed.
        UsageError: None of the four.
    """
    check_base(base)
    if base in bases():
        return pull(base, console, cache, first=first)
    path = Path(base).expanduser()
    if path.exists():
        return _local(path)
    hub_model = _local(fetch_base(base, console))
    name = base.partition("@")[0].rpartition("/")[2]
    return Pulled(name, hub_model.folder, "huggingface.co", True, hub_model.files, base, hub_model.bytes)


def bases() -> tuple[str, ...]:
    """Names to pull."""
    return tuple(name for name, asset in ASSETS.items() if asset.kind == "model" and name != ENCODER)


def check_base(base: str) -> None:
    """Refuse what cannot be a base.

    Raises:
        UsageError: None of a name to pull, a path that exists, and an id of the Hub.
    """
    if base not in bases() and not Path(base).expanduser().exists() and not _HUB_ID.match(base):
        raise UsageError(
            f"no base model {base!r}", did_you_mean(base, bases(), ", a folder, a .gguf file, or owner/name of the Hub")
        )


def base_folders() -> tuple[Path, ...]:
    """Where the configuration of a base may lie that needs no download: the Hub's cache, and the bases pulled here."""
    return (*hub_folders(), cache_folder() / "models")


def model_folder(name: str, pulled: Path, cache: Path) -> Path | None:
    """The Hugging Face folder of a pulled base; None for a GGUF file that is not unpacked yet.

    Args:
        name: Name of the base.
        pulled: Its folder or GGUF file.
        cache: Cache of this program.
    """
    folders = (pulled, cache / f"{name}-bf16")
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def gguf_file(pulled: Path) -> Path:
    """The GGUF file of a pulled base that is no Hugging Face folder.

    Raises:
        DataError: There is none.
    """
    files = [pulled] if pulled.is_file() else sorted(pulled.glob("*.gguf"))
    if not files:
        raise DataError(f"{pulled} contains neither config.json nor a .gguf file", "pull the base model again")
    return files[0]


def _local(path: Path) -> Pulled:
    if path.is_file():
        if path.suffix != ".gguf":
            raise DataError(f"{path} is not a .gguf file", "give a GGUF file, or a folder with config.json")
        files = {path.name: sha256_of(path)}
        name = f"{path.stem}-{files[path.name][:8]}"  # also names the unpacked model in the cache
        return Pulled(name, path, "local file", True, files, "as its source says", path.stat().st_size)
    required = {"config.json", "tokenizer.json"}
    paths = sorted(p for p in path.iterdir() if p.suffix == ".safetensors" or p.name in required)
    names = {p.name for p in paths}
    if not required <= names or not any(n.endswith(".safetensors") for n in names):
        raise DataError(
            f"{path} is no model folder", "it needs config.json, tokenizer.json and .safetensors files; or name a .gguf"
        )
    size = sum(p.stat().st_size for p in paths)
    files = {p.name: sha256_of(p) for p in paths}
    return Pulled(path.resolve().name, path, "local folder", True, files, "as its source says", size)
