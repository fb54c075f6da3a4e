"""Downloads: a URL to a file (resumed after an interruption), a pinned wheel through pip, files from an archive."""

import errno
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from delrec_lite.errors import StorageError
from delrec_lite.files import sha256_of
from delrec_lite.hub.registry import File
from delrec_lite.version import __version__

# Also the longest pause within a transfer. Short, so that an unreachable mirror costs little time.
TIMEOUT_SECONDS = 8.0
ATTEMPTS = 4
_CHUNK = 1 << 18

OnBytes = Callable[[int], None]
"""Called with the number of bytes downloaded so far."""


class MirrorError(Exception):
    """A mirror failed, with the reason in a few words; the next mirror is tried."""


def verify(path: Path, sha256: str, size: int) -> None:
    """Check size, then sha256; an empty digest or a size of 0 is not checked.

    Raises:
        MirrorError: Truncated, too long, or a wrong sha256. Unless it is truncated, the file is removed.
    """
    actual = path.stat().st_size
    if size and actual < size:
        raise MirrorError(f"{path.name} was truncated at {actual} of {size} bytes")
    if (size and actual > size) or (sha256 and sha256_of(path) != sha256):
        path.unlink()
        raise MirrorError(f"{path.name} has the wrong sha256 or size; it is not the pinned file")


def fetch_url(url: str, target: Path, size: int, on_bytes: OnBytes) -> None:
    """Download ``url`` to ``target``, resuming an earlier attempt.

    Args:
        url: http or https; the usual proxy variables apply.
        target: The file to write; a partial file of an earlier call is resumed by a Range request.
        size: Expected bytes.
        on_bytes: Reports progress.

    Raises:
        MirrorError: Unreachable, refused, or interrupted ``ATTEMPTS`` times.
        StorageError: The file cannot be written.
    """
    probe(url)
    for attempt in range(1, ATTEMPTS + 1):
        before = target.stat().st_size if target.exists() else 0
        if before >= size:
            return
        try:
            _transfer(url, target, before, size, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not before:
                raise MirrorError(f"HTTP status {error.code} {error.reason}") from error
            target.unlink()
        except urllib.error.URLError as error:
            raise MirrorError(f"unreachable: {error.reason}") from error
        except (http.client.HTTPException, OSError) as error:
            if not target.exists() or attempt == ATTEMPTS:
                raise MirrorError(f"interrupted: {error or type(error).__name__}") from error
        else:
            if target.stat().st_size >= size:
                return
        time.sleep(0.2 * attempt)
    done = target.stat().st_size if target.exists() else 0
    raise MirrorError(f"{target.name} was truncated at {done} of {size} bytes, {ATTEMPTS} times")


def probe(url: str) -> None:
    """Check within ``TIMEOUT_SECONDS`` in total whether a host can be reached; a host behind a proxy is not checked.

    The standard library waits that long for each address, and a large host has eight: behind a firewall that
    drops packets it would take a minute before the next mirror is tried.

    Raises:
        MirrorError: The host cannot be reached.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    reason: OSError | None = None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        for address in sorted(addresses):
            try:
                socket.create_connection((address, port), timeout=TIMEOUT_SECONDS / len(addresses)).close()
                return
            except OSError as error:
                reason = error
    except OSError as error:
        reason = error
    raise MirrorError(f"unreachable: {reason}")


def _transfer(url: str, target: Path, start: int, size: int, on_bytes: OnBytes) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"delrec-lite/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        done = start if resumed else 0
        with _open(target, "ab" if resumed else "wb") as file:
            while done <= size and (chunk := response.read(_CHUNK)):
                try:
                    file.write(chunk)
                except OSError as error:
                    raise unwritable(target, error) from error
                done += len(chunk)
                on_bytes(done)


def _open(path: Path, mode: Literal["ab", "wb"]) -> BinaryIO:
    try:
        return path.open(mode)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StorageError:
    """The storage error for a failed write to ``path``."""
    if error.errno == errno.ENOSPC:
        return StorageError(
            f"no space left on the disk for {path}", "free some space, or set DELREC_CACHE to another disk"
        )
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {path}: {reason}", "set DELREC_CACHE to a folder you can write")


def fetch_wheel(requirement: str, folder: Path, on_bytes: OnBytes) -> Path:
    """Download one pinned wheel, without its dependencies, with the pip of this environment.

    Args:
        requirement: ``NAME==VERSION``.
        folder: Empty folder for pip to work in.
        on_bytes: Reports progress.

    Returns:
        The wheel's path below ``folder``.

    Raises:
        MirrorError: pip is not installed, or the download failed.
        StorageError: The disk is full.
    """
    if importlib.util.find_spec("pip") is None:
        raise MirrorError(f"pip is not in this environment; add it with: {sys.executable} -m ensurepip")
    # pip downloads to its temporary folder first: here, so that its size is visible and no files are left elsewhere.
    (folder / "tmp").mkdir(parents=True)
    (folder / "wheel").mkdir()
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder / "wheel")]
    command += ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--retries", "2"]
    command += ["--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check", "--no-input"]
    log = folder / "log"
    with log.open("wb") as output:
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "TEMP": str(folder / "tmp")}
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while child.poll() is None:
                on_bytes(_size_below(folder))
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    wheels = list((folder / "wheel").glob("*.whl"))
    if child.returncode != 0 or len(wheels) != 1:
        reason = _pip_reason(log)
        if os.strerror(errno.ENOSPC) in reason:
            raise unwritable(folder, OSError(errno.ENOSPC, reason))
        raise MirrorError(f"pip could not download {requirement}: {reason}")
    return wheels[0]


def _size_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moved it after it was listed
            continue
    return total


def _pip_reason(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    unanswered = "the package index did not answer; " if any("Retrying (" in line for line in lines) else ""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return unanswered + (errors or lines or ["no reason given"])[-1][:200]


def extract(archive: Path, files: tuple[File, ...], folder: Path) -> None:
    """Extract ``files`` from a zip archive into ``folder`` and verify them.

    Raises:
        MirrorError: Not a zip archive, or a file is missing or differs.
        StorageError: A file cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as contents:
            for file in files:
                target = folder / file.name
                with contents.open(file.path) as source, _open(target, "wb") as out:
                    while chunk := source.read(_CHUNK):
                        try:
                            out.write(chunk)
                        except OSError as error:
                            raise unwritable(target, error) from error
                verify(target, file.sha256, file.bytes)
    except KeyError as error:
        raise MirrorError(f"{archive.name} lacks a file: {error.args[0]}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise MirrorError(f"{archive.name} is not a readable archive: {error}") from error


def join(pieces: list[Path], target: Path) -> None:
    """Concatenate ``pieces`` into ``target`` and remove them.

    Raises:
        StorageError: The file cannot be written.
    """
    with _open(target, "wb") as out:
        for piece in pieces:
            with piece.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    try:
                        out.write(chunk)
                    except OSError as error:
                        raise unwritable(target, error) from error
            piece.unlink()
