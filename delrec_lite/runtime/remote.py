"""Bundles of the Hugging Face Hub: `hf://ORG/NAME[@REVISION]` becomes a verified folder in the Hub's cache."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delrec_lite.cache_folder import cache_folder
from delrec_lite.console import QUIET, Console
from delrec_lite.errors import BundleError
from delrec_lite.files import add_entry, read_entries, sha256_of
from delrec_lite.hub.address import HubAddress, parse_address
from delrec_lite.hub.snapshot import Snapshot, address_of, drop, fetch_file, open_snapshot
from delrec_lite.provenance import now
from delrec_lite.runtime.manifest import MANIFEST, check_file, check_name, read_manifest

# In the cache folder: which commit of the Hub was used when, and the hash of its manifest.
RECORD = "hub-bundles.json"


def located(path: str | os.PathLike[str], console: Console = QUIET) -> Path:
    """The folder of a bundle; one of the Hub is fetched first, each file once.

    Args:
        path: A folder, or ``hf://ORG/NAME[@REVISION]``.
        console: Says the commit, and shows the download.

    Raises:
        BundleError: What the Hub has is no bundle, or another one than this commit was when it was first fetched.
        FetchError: It cannot be read, or is not in the cache where there is no network.
        MissingPackageError: huggingface_hub is not installed.
        StorageError: The Hub's cache cannot be written.
        UsageError: A malformed address.
    """
    address = parse_address(path)
    return Path(path) if address is None else _fetch(address, console)


def source_of(folder: Path) -> str:
    """Where a bundle comes from: its address on the Hub with its commit, or its folder."""
    return str(address_of(folder) or folder)


@contextmanager
def repairing(folder: Path) -> Iterator[None]:
    """Of a bundle in the Hub's cache that does not verify, remove what differs, so that it can be fetched again.

    Raises:
        BundleError: What was raised inside, with what to do.
    """
    try:
        yield
    except BundleError as error:
        address = address_of(folder)
        if address is None:
            raise
        dropped = ", ".join(_drop_changed(folder))
        hint = f"{dropped} was removed from the cache: run it again to fetch it anew" if dropped else error.hint
        raise BundleError(f"{address}: {error.message}", hint) from error


def _fetch(address: HubAddress, console: Console) -> Path:
    snapshot = open_snapshot(address, MANIFEST, console)
    if not address.is_pinned:
        console.say(f"  {address} is commit {snapshot.address.revision}; to pin it: {snapshot.address}")
    logging.getLogger("delrec_lite").info("%s is %s", address, snapshot.address)
    _check_record(address, snapshot)
    with repairing(snapshot.folder):
        files = read_manifest(snapshot.folder)["files"]
        for name in files:
            check_name(snapshot.folder, name)
    for name in files:
        fetch_file(snapshot, name, console)
    return snapshot.folder


def _check_record(address: HubAddress, snapshot: Snapshot) -> None:
    """Compare a commit's manifest with the one that was first fetched, and record it.

    Raises:
        BundleError: They differ, though the files of a commit never change.
    """
    record, manifest = cache_folder() / RECORD, sha256_of(snapshot.folder / MANIFEST)
    entry = {"address": str(address), "commit": str(snapshot.address), "manifest": manifest, "resolved": now()}
    for earlier in read_entries(record):
        if earlier.get("commit") == entry["commit"] and earlier.get("manifest") != manifest:
            drop(snapshot.folder / MANIFEST)
            raise BundleError(
                f"{snapshot.address} has another manifest than at its first use, {earlier.get('resolved')}",
                "it was removed from the cache: run it again; if it differs again, do not trust the repository",
            )
    add_entry(record, entry, lambda earlier: {**earlier, "resolved": ""} == {**entry, "resolved": ""})


def _drop_changed(folder: Path) -> list[str]:
    """Remove the files that are not what the manifest lists, or a manifest that cannot be read; their names."""
    try:
        files = read_manifest(folder)["files"]
    except BundleError:
        drop(folder / MANIFEST)
        return [MANIFEST]
    dropped = []
    for name, facts in files.items():
        try:
            check_file(folder, name, facts, verify=True)
        except BundleError:
            if Path(name).name == name and (folder / name).is_symlink() | (folder / name).is_file():
                drop(folder / name)
                dropped.append(name)
    return dropped
