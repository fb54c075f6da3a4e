"""The Hugging Face Hub through huggingface_hub, with the user's ``HF_ENDPOINT``, token and cache (``HF_HOME``)."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.environment import flag
from delrec_lite.errors import FetchError, MissingPackageError, StorageError, install_line
from delrec_lite.hub.fetch import MirrorError, probe, verify
from delrec_lite.hub.registry import File, Mirror

_PATTERNS = ["config.json", "generation_config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def fetch_files(mirror: Mirror, folder: Path, console: Console) -> None:
    """Fetch and verify the files of a ``hub`` mirror; files in the Hub's cache are not downloaded again.

    Raises:
        MirrorError: huggingface_hub is not installed, or a file could not be fetched or is not the pinned one.
        StorageError: The Hub's cache cannot be written.
    """
    repo, _, revision = mirror.address.partition("@")
    try:
        hub = library()
    except MissingPackageError as error:
        raise MirrorError(f"{error.message}: {error.hint}") from error
    with bars(console):
        for file in mirror.files:
            _link_or_copy(_fetch(hub, repo, revision, file), folder / file.name)


def fetch_base(base: str, console: Console) -> Path:
    """The folder of a model in the Hub's cache; only the files needed to load it are fetched.

    Args:
        base: ``owner/name``, with ``@revision`` to pin a version.
        console: Shows a download.

    Raises:
        FetchError: The download failed, or ``DELREC_OFFLINE`` is set and the model is not in the cache.
        MissingPackageError: huggingface_hub is not installed.
        StorageError: The Hub's cache cannot be written.
    """
    hub, offline = library(), flag("DELREC_OFFLINE")
    repo, _, revision = base.partition("@")
    if not offline:
        console.say(f"  {base}: from the Hugging Face Hub")
    try:
        with bars(console):
            folder = hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=_PATTERNS, local_files_only=offline
            )
    except Exception as error:  # the errors of its HTTP client differ between versions
        raise_storage_error(error)
        reason = "it is not in the cache and DELREC_OFFLINE is set" if offline else reason_of(error)
        raise FetchError(
            f"cannot fetch {base} from the Hub: {reason}",
            "check the name, network and, for gated models, `hf auth login`; or give a folder or a .gguf file",
        ) from error
    return Path(folder)


def hub_folders() -> tuple[Path, ...]:
    """The cache folder of huggingface_hub; none if it is not installed."""
    try:
        return (Path(library().constants.HF_HUB_CACHE),)
    except MissingPackageError:
        return ()


def library() -> Any:
    """The package huggingface_hub.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingPackageError(
            "the Hugging Face Hub needs huggingface_hub, which is not installed",
            install_line("huggingface_hub"),
        ) from error
    return huggingface_hub


def _fetch(hub: Any, repo: str, revision: str, file: File) -> Path:
    """The verified file in the Hub's cache."""
    try:
        path = Path(hub.hf_hub_download(repo, file.path, revision=revision, local_files_only=True))
    except FileNotFoundError:
        probe(hub.constants.ENDPOINT)  # fails within seconds; the library would wait for each address
        try:
            path = Path(hub.hf_hub_download(repo, file.path, revision=revision))
        except Exception as error:  # the errors of its HTTP client differ between versions
            raise_storage_error(error)
            raise MirrorError(reason_of(error)) from error
    blob = path.resolve()
    try:
        verify(blob, file.sha256, file.bytes)
    except MirrorError:
        blob.unlink(missing_ok=True)  # otherwise the cache would return it again
        raise
    return blob


def _link_or_copy(blob: Path, target: Path) -> None:
    """Link ``target`` to the file in the Hub's cache, or copy the file if it is on another disk."""
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)


@contextmanager
def bars(console: Console) -> Iterator[None]:
    """Show the library's progress bars only if this program shows its own."""
    utils = library().utils
    if console.shows_bars or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def raise_storage_error(error: Exception) -> None:
    """Raise a ``StorageError`` if the disk is why the library failed."""
    if isinstance(error, OSError) and error.errno in _DISK:
        raise StorageError(
            f"cannot write the Hub's cache: {error.strerror}: {error.filename}",
            "free some space, or set HF_HOME to another folder",
        ) from error


def reason_of(error: Exception) -> str:
    """The cause of an error, without the library's advice about its cache."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split())[:200] or type(cause).__name__
