"""The folder of recommendations: parts, ``rejected.parquet``, and a manifest that says of what they are."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.data.frames import FrameKind, frame_of
from delrec_lite.data.packages import arrow
from delrec_lite.errors import StorageError
from delrec_lite.files import write_atomic
from delrec_lite.scoring.work import REJECTED, part_name

WHAT = "folder of recommendations"
MANIFEST, WORK = "manifest.json", ".work"
KIND = "recommendations"
RUNNING, DONE = "running", "done"
# What identifies a run; the rest of its manifest says how far it is.
IDENTITY = ("bundle", "input", "options")
# What the command calls them, where the names differ.
_OPTION = {"part_users": "part_rows"}
_OWN = re.compile(rf"(part-\d{{5,}}\.parquet|{re.escape(MANIFEST)})(\.\d+\.part)?|{re.escape(REJECTED)}")


class Scored(dict[str, Any]):
    """The manifest of a finished run; ``counts`` has ``users``, ``rows``, ``rejected`` and others.

    Attributes:
        folder: Of its parts.
    """

    def __init__(self, manifest: Mapping[str, Any], folder: Path) -> None:
        super().__init__(manifest)
        self.folder = folder

    def to_frame(self, to: FrameKind | None = None) -> Any:
        """All recommendations, in memory: ``user_id``, ``rank``, ``item_id``, ``score``.

        Args:
            to: ``pandas``, ``polars`` or ``arrow``; default: the first that is installed.
        """
        pa = arrow()
        parts = (self.folder / part_name(number) for number in range(self["counts"]["parts"]))
        return frame_of(pa.concat_tables(pa.parquet.read_table(part) for part in parts), to)


def made(folder: Path) -> set[str] | None:
    """The files of such a folder, with what killed processes left; None where it is none."""
    if read_manifest(folder) is None:
        return None
    own = {path.name for path in folder.iterdir() if _OWN.fullmatch(path.name)}
    inside = {str(path.relative_to(folder)) for path in (folder / WORK).rglob("*") if path.is_file()}
    return own | inside | {f"{WORK}/any"}  # its folder is empty where its removal was cut short


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of recommendations; None where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write or replace the manifest."""
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def check_same(folder: Path, manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Check that a folder is of this run.

    Raises:
        StorageError: It holds another one; says what differs.
    """
    for key in IDENTITY:
        before, now = manifest.get(key), identity[key]
        if before == now:
            continue
        what = f"another {key}"
        if key == "options" and isinstance(before, dict):
            differing = [_OPTION.get(name, name) for name in now if before.get(name) != now[name]]
            what = f"other options ({', '.join(name.replace('_', '-') for name in differing)})"
        raise StorageError(f"{folder} holds another run, of {what}", "choose another --out, or remove that folder")


def missing_parts(folder: Path, parts: int) -> list[str]:
    """Names of the parts that are not finished, or were damaged since."""
    return [name for name in map(part_name, range(parts)) if not _is_whole(folder / name)]


def _is_whole(part: Path) -> bool:
    pa = arrow()
    try:
        pa.parquet.read_metadata(part)
    except (OSError, pa.ArrowException):
        return False
    return True
