"""Where downloads and measurements are kept: the user's cache folder, or one in the temporary folder."""

import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from delrec_lite import environment

# Neither exists nor can be created.
_NO_FOLDER = Path(os.devnull) / "cache"
_given_homes: set[str] = set()


def cache_folder() -> Path:
    """``DELREC_CACHE``, or the platform's cache folder; without a home, a folder in the temporary folder.

    A folder that exists is returned even if it cannot be written, because what is in it can be read; so is the one that
    the user has named.
    """
    folder = _configured_cache()
    if _is_named() and folder is not None:
        return folder
    if folder is None:
        return _temporary_cache("there is no home folder")
    can_read = os.access(folder, os.R_OK | os.X_OK) and folder.is_dir()
    return folder if can_read or _can_write(folder) else _temporary_cache(f"cannot write to {folder}")


def writable_cache(folder: Path, needed: bool = False) -> Path:
    """The same folder; for the user's cache folder that cannot be written, one in the temporary folder.

    Args:
        folder: Of a cache.
        needed: Keep a folder that ``DELREC_CACHE`` names, for what the user wants to have there.
    """
    if _can_write(folder) or folder != cache_folder() or (needed and _is_named()):
        return folder
    return _temporary_cache(f"cannot write to {folder}")


def ensure_home() -> None:
    """Where there is no home folder, set ``HOME``: other libraries would fail, or write to a folder named ``~``."""
    try:
        Path.home()
    except (RuntimeError, KeyError):
        home = str(_temporary_folder())
        os.environ["HOME"] = home
        _given_homes.add(home)


def _is_named() -> bool:
    return environment.folder("DELREC_CACHE") is not None


def _configured_cache() -> Path | None:
    """None without a home folder, or with that of ``ensure_home``."""
    if configured := environment.folder("DELREC_CACHE"):
        return configured
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("delrec-lite"))
    except (RuntimeError, KeyError):
        return None
    given = any(folder.is_relative_to(home) for home in _given_homes)
    return folder if folder.is_absolute() and not given else None


def _can_write(folder: Path) -> bool:
    """Whether it can be written, or created."""
    existing = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    return os.access(existing, os.W_OK | os.X_OK) and existing.is_dir()


def _temporary_cache(reason: str) -> Path:
    """``_temporary_folder``, which is said once."""
    folder = _temporary_folder()
    found = "nothing is cached" if folder == _NO_FOLDER else f"the cache is {folder}"
    _say_once(f"{reason}: {found}; DELREC_CACHE names another folder")
    return folder


def _temporary_folder() -> Path:
    """A folder in the temporary folder that only this user can write; ``_NO_FOLDER`` if there is none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"delrec-lite-{os.getuid() if os.name == 'posix' else 'cache'}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        is_own = os.name != "posix" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
        if not (stat.S_ISDIR(status.st_mode) and is_own):  # prepared by another user
            return _private_folder()
    except OSError:
        return _NO_FOLDER
    return folder


@cache
def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="delrec-lite-"))


@cache
def _say_once(message: str) -> None:
    logging.getLogger("delrec_lite").warning(message)
