"""The cache: what lies in it, whether it is whole, and a place to work beside it that no other call shares."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.files import locked, sha256_of
from delrec_lite.hub.registry import Asset, Mirror

RECORD = "pulled.json"
# Hashed on every call; a larger file only when its time stamp is not the recorded one.
_ALWAYS_HASHED = 4_000_000


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


def write_record(asset: Asset, mirror: Mirror, out: Path) -> None:
    """Note beside the files of ``out`` who delivered them, and what they are."""
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


def read_cached(asset: Asset, folder: Path) -> Pulled | None:
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
def working_folder(folder: Path, console: Console) -> Iterator[Path]:
    """A folder of this call's own beside ``folder``; partial downloads in it are kept for the next call.

    Where the disk knows no locks each call works under a name of its own and cannot go on with another's partial files.
    """

    def busy() -> None:
        console.say(f"  {folder.name}: another process is fetching it; waiting")

    with locked(folder.parent / f".{folder.name}.lock", busy) as held:
        if held:
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
