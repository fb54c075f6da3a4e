"""The cache of pulled assets: records, integrity checks, and a working folder for one call at a time."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.files import listed_files, sha256_of
from delrec_lite.hub.registry import Asset, Mirror
from delrec_lite.locks import locked

RECORD = "pulled.json"
# Files up to this size are hashed on every call; larger ones only if their time stamp differs from the record.
_ALWAYS_HASHED = 4_000_000


@dataclass(frozen=True)
class Pulled:
    """An asset in the cache.

    Attributes:
        name: Its name in the registry.
        folder: Folder of the files.
        mirror: Name of the mirror that delivered them.
        cached: Whether they were in the cache before this call.
        files: sha256 of each file, by name.
        licence: Licence of the asset.
        bytes: Total size of the files.
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


def write_record(asset: Asset, mirror: Mirror, out: Path) -> None:
    """Record the mirror, sha256 and size of the files in ``out``."""
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


def pulled_files(folder: Path) -> set[str] | None:
    """The files of an asset in ``folder``, see ``files.check_folder``; None if none was pulled to it."""
    return listed_files(folder, RECORD)


def read_cached(asset: Asset, folder: Path) -> Pulled | None:
    """The asset in ``folder`` if it is complete and has the pinned digests, else None."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        mirror = next(m for m in asset.mirrors if m.name == record["mirror"])
        files: dict[str, str] = {}
        size = 0
        for pinned in mirror.files:
            recorded, path = record["files"][pinned.name], folder / pinned.name
            stat = path.stat()
            intact = stat.st_size == recorded["bytes"] and pinned.sha256 in {"", recorded["sha256"]}
            if intact and (stat.st_size <= _ALWAYS_HASHED or stat.st_mtime_ns != recorded["mtime_ns"]):
                intact = sha256_of(path) == recorded["sha256"]
            if not intact:
                return None
            files[pinned.name] = recorded["sha256"]
            size += stat.st_size
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return Pulled(asset.name, folder, mirror.name, True, files, asset.licence, size)


@contextmanager
def working_folder(folder: Path, console: Console) -> Iterator[Path]:
    """A working folder next to ``folder`` for this call; partial downloads in it stay for the next call.

    On a file system without locks each call has a new folder and cannot resume another call's partial downloads.
    """

    def busy() -> None:
        console.say(f"  {folder.name}: another process is fetching it; waiting")

    with locked(folder.parent / f".{folder.name}.lock", busy) as has_lock:
        if has_lock:
            staging = folder.parent / f".{folder.name}.staging"
            staging.mkdir(exist_ok=True)
            resumable = "*.part"
        else:
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            resumable = ""
        try:
            yield staging
        finally:
            finished = (folder / RECORD).is_file() or not resumable
            partial = set() if finished else set(staging.glob(resumable))
            for path in staging.iterdir():
                if path not in partial:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            if not partial:
                with suppress(OSError):  # the pip of a call that was killed is still writing to it
                    staging.rmdir()
