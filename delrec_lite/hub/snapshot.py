"""Files of one commit of a repository on the Hub, in the Hub's cache: fetched one by one, or read offline."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.environment import flag
from delrec_lite.errors import FetchError
from delrec_lite.hub.address import HubAddress
from delrec_lite.hub.fetch import MirrorError, probe
from delrec_lite.hub.huggingface import bars, library
from delrec_lite.hub.problems import explained

# Where the cache keeps a commit; documented by huggingface_hub.
_IN_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")


@dataclass(frozen=True)
class Snapshot:
    """A commit in the Hub's cache.

    Attributes:
        address: With the commit as its revision.
        folder: Has the files that were fetched so far; links, where the file system has them.
    """

    address: HubAddress
    folder: Path


def address_of(folder: Path) -> HubAddress | None:
    """The pinned address of a folder in the Hub's cache; None for any other folder."""
    match = _IN_CACHE.fullmatch("/".join(folder.parts[-3:]))
    return HubAddress(f"{match[1]}/{match[2]}", match[3]) if match else None


def open_snapshot(address: HubAddress, name: str, console: Console) -> Snapshot:
    """Fetch a first file, which decides the commit.

    A commit in the cache is read without a request. Where the Hub cannot be reached, the last known commit of the
    revision is taken from the cache, and said.

    Args:
        address: Of the repository.
        name: Of the file.
        console: Says where the commit comes from.

    Raises:
        FetchError: There is no such repository, revision or file, it may not be read, or nothing can be reached.
        MissingPackageError: huggingface_hub is not installed.
        StorageError: The Hub's cache cannot be written.
    """
    hub = library()
    offline = _is_offline(hub)
    if (address.is_pinned or offline) and (path := _cached(hub, address, name)):
        return _snapshot(address, path)
    if offline:
        raise FetchError(
            f"{address} is not in the cache, and DELREC_OFFLINE or HF_HUB_OFFLINE is set",
            "unset it, or copy the Hub's cache (HF_HOME) from a machine that has it",
        )
    try:
        _ask(hub, address, name)
    except MirrorError as error:
        path = _cached(hub, address, name)
        if path is None:
            raise FetchError(f"cannot read {address}: the Hub is {error}", "check network and HF_ENDPOINT") from error
        console.say(f"  {address}: the Hub is {error}; the last known commit is taken from the cache")
        return _snapshot(address, path)
    with _explaining(address), bars(console):
        path = Path(hub.hf_hub_download(address.repository, name, revision=address.revision or None))
    return _snapshot(address, path)


def fetch_file(snapshot: Snapshot, name: str, console: Console) -> None:
    """Fetch one more file of the commit; one that is in the cache is not fetched again.

    Raises:
        FetchError: See ``open_snapshot``.
        StorageError: The Hub's cache cannot be written.
    """
    hub, address = library(), snapshot.address
    if _cached(hub, address, name):
        return
    if _is_offline(hub):
        raise FetchError(f"{address} is not complete in the cache: {name} is missing", "unset DELREC_OFFLINE")
    with _explaining(address), bars(console):
        hub.hf_hub_download(address.repository, name, revision=address.revision)


def drop(path: Path) -> None:
    """Remove a file from the cache, with what its link leads to; otherwise the cache would return it again."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


@contextmanager
def _explaining(address: HubAddress) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the errors of its HTTP client differ between versions
        raise explained(error, address, "read") from error


def _is_offline(hub: Any) -> bool:
    return flag("DELREC_OFFLINE") or bool(hub.constants.HF_HUB_OFFLINE)


def _cached(hub: Any, address: HubAddress, name: str) -> Path | None:
    """The file in the cache, without a request; None if it is not there."""
    try:
        path = hub.hf_hub_download(address.repository, name, revision=address.revision or None, local_files_only=True)
    except FileNotFoundError:
        return None
    return Path(path)


def _ask(hub: Any, address: HubAddress, name: str) -> None:
    """Ask the Hub whether the file may be read: where it may not, the library returns an older one from its cache.

    Raises:
        FetchError: It may not.
        MirrorError: The Hub cannot be reached, or has a fault of its own.
    """
    probe(hub.constants.ENDPOINT)  # within seconds; the library would wait and try again
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(address.repository, name, revision=address.revision or None))
    except Exception as error:  # the errors of its HTTP client differ between versions
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status >= 500:
            raise MirrorError(f"out of order (status {status})") from error
        raise explained(error, address, "read") from error


def _snapshot(address: HubAddress, path: Path) -> Snapshot:
    return Snapshot(address_of(path.parent) or address, path.parent)
