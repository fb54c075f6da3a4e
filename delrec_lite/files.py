"""File helpers: sha256, atomic writes, targets that the program made, and lists in the cache folder."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from delrec_lite.errors import StorageError
from delrec_lite.locks import sole_lock

# Network disks may show a file of another machine only after a while.
SECONDS_TO_APPEAR = 60.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_ELSEWHERE = "choose another place for it, or move away what is there"

# The paths of the files in a folder that the program made there; None where it made no such folder.
Made = Callable[[Path], Collection[str] | None]


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file atomically; text is UTF-8. What killed processes left of earlier writes is removed."""
    remove_stale(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def appears(path: Path) -> bool:
    """Whether a file is there that another machine has written; waits for it as long as network disks take."""
    until = time.monotonic() + SECONDS_TO_APPEAR
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def check_folder(path: Path, what: str, made: Made) -> Path:
    """Where a folder can be written, links followed: it is absent, empty, or has only files that the program made.

    Args:
        path: As the user gave it.
        what: What is written, such as ``bundle``, for the error.
        made: The files of such a folder.

    Raises:
        StorageError: Something else is there.
    """
    target = _resolved(path)
    if not target.exists():
        return target
    if not target.is_dir():
        raise StorageError(f"{path} is a file, which a {what} would replace", _ELSEWHERE)
    if not any(target.iterdir()):
        return target
    files = made(target)
    if files is None:
        raise StorageError(f"{path} is not empty and is no {what}", _ELSEWHERE)
    stranger = next(_others(target, files), None)
    if stranger is not None:
        raise StorageError(f"{path} holds {stranger}, which is no part of the {what} there", _ELSEWHERE)
    return target


def check_file(path: Path, what: str, keys: Collection[str] = (), begins: str = "") -> Path:
    """Where a file can be written, links followed: it is absent, empty, or one that the program wrote.

    Args:
        path: As the user gave it.
        what: What is written, such as ``report``, for the error.
        keys: Which every such JSON object has; none: a file that exists is never replaced.
        begins: How every such text begins, in place of ``keys``.

    Raises:
        StorageError: Something else is there.
    """
    target = _resolved(path)
    if target.is_dir():
        raise StorageError(f"{path} is a folder", "name a file")
    if target.exists() and not (target.is_file() and _is_written(target, keys, begins.encode())):
        raise StorageError(f"{path} exists and is no {what}", _ELSEWHERE)
    return target


def _is_written(path: Path, keys: Collection[str], begins: bytes) -> bool:
    if path.stat().st_size == 0:
        return True
    if begins:
        with path.open("rb") as file:
            return file.read(len(begins)) == begins
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if keys else None
    except ValueError:
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise StorageError(f"{path} cannot be followed: {error}", _ELSEWHERE) from error


def _others(folder: Path, files: Collection[str]) -> Iterator[str]:
    """What is in a folder beside ``files`` and the folders that contain them."""
    own = {Path(name) for name in files}
    parents = {parent for path in own for parent in path.parents}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if name not in (parents if is_folder else own):
            yield str(name)


def listed_files(folder: Path, record: str) -> set[str] | None:
    """The files of a folder that a JSON file in it, ``record``, lists under ``files``; None where it lists none."""
    try:
        return {record, *json.loads((folder / record).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_files(folder: Path, files: Collection[str]) -> None:
    """Remove these files of a folder, then the folders that are empty; what is not among them stays."""
    for name in files:
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    inner = {folder / parent for name in files for parent in Path(name).parents}
    for path in sorted(inner | {folder}, key=lambda path: -len(path.parts)):
        with suppress(OSError):  # not empty
            path.rmdir()


@contextmanager
def writing(path: Path, what: str, made: Made, busy: Callable[[], None] = lambda: None) -> Iterator[tuple[Path, Path]]:
    """One process at a time writes the folder ``path``; nothing is left beside it afterwards.

    What a killed process left is removed first; if it was killed while it replaced the folder, the old one is restored.

    Args:
        path: As the user gave it; the folders above it are created.
        what: As for ``check_folder``.
        made: As for ``check_folder``.
        busy: Called if another process is writing it, before this one waits.

    Yields:
        The folder to write, links followed, and a path beside it to write to before ``put_in_place``.

    Raises:
        StorageError: See ``check_folder``.
    """
    target = check_folder(path, what, made)
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with sole_lock(target.with_name(f".{target.name}.lock"), busy) as has_lock:
        if has_lock:
            _recover(target)
        check_folder(target, what, made)  # another process may have written it meanwhile
        try:
            yield target, staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def put_in_place(new: Path, path: Path, what: str, made: Made) -> None:
    """Give the folder ``new`` the name ``path``; what was there is removed if the program made it.

    Raises:
        StorageError: See ``check_folder``.
    """
    target = check_folder(path, what, made)
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        old.rename(new)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap the names of two folders at once, so that no moment is without one; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _recover(target: Path) -> None:
    """Undo what killed processes left beside a folder; to be called with its lock."""
    old = sorted(_leftovers(target, "old"), key=lambda path: path.stat().st_mtime_ns)
    if old and not target.exists():
        old.pop().rename(target)
    for path in [*old, *_leftovers(target, "part", "part.trial")]:
        shutil.rmtree(path, ignore_errors=True)


def remove_stale(path: Path) -> None:
    """Remove what processes that were killed left beside a file or folder."""
    for left in _leftovers(path, "part"):
        if not _is_running(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _leftovers(path: Path, *endings: str) -> list[Path]:
    """Names beside ``path`` that temporary files and folders of it have."""
    pattern = re.compile(rf"\.?{re.escape(path.name)}\.\d+\.({'|'.join(map(re.escape, endings))})")
    try:
        return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]
    except OSError:  # no such folder
        return []


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # there a signal 0 ends the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list in the cache; empty if there is none that can be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def add_entry(path: Path, entry: Mapping[str, Any], replaces: Callable[[dict[str, Any]], bool]) -> None:
    """Append to a JSON list in the cache; nothing where it cannot be written, because the cache is optional.

    Args:
        path: See ``read_entries``; its folder is created if missing.
        entry: To append.
        replaces: Whether it takes the place of an earlier entry.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sole_lock(path.with_name(f".{path.name}.lock")):
            others = [earlier for earlier in read_entries(path) if not replaces(earlier)]
            write_atomic(path, json.dumps([*others, entry], indent=1) + "\n")
    except OSError:
        return


def identity_of(path: Path) -> tuple[int, int, int] | None:
    """What changes where a file is changed or replaced; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
