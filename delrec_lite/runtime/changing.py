"""Writes a bundle that shares most of its files with another, such as one with more items."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from delrec_lite.errors import StorageError
from delrec_lite.files import writing
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.manifest import bundle_files, read_manifest
from delrec_lite.runtime.remote import located, source_of


@contextmanager
def changing(path: Path, out: Path | None) -> Iterator[tuple[Path, Path, Path]]:
    """One process at a time writes a changed bundle; what is not finished leaves nothing.

    Args:
        path: The bundle; one of the Hub needs ``out``.
        out: The bundle to write; None: ``path`` itself, replaced as a whole at the last moment.

    Yields:
        The bundle and the one to write, links followed, and a path beside it for its files.

    Raises:
        BundleError: ``path`` is no bundle.
        StorageError: The new bundle cannot be written, or ``out`` is neither absent nor a bundle.
    """
    path = located(path)
    if out is None and source_of(path) != str(path):
        raise StorageError(f"{source_of(path)} is in the Hub's cache, which is not changed", "name another: --out")
    if out is None and (path.is_dir() or not path.parent.is_dir()):
        read_manifest(path)  # an error before anything is written
    if out is not None and path.resolve() in out.resolve().parents:
        raise StorageError(f"{out} lies in the bundle {path}, to which nothing may be added", "choose another --out")
    try:
        with writing(out or path, "bundle", bundle_files) as (target, staging):
            yield path.resolve(), target, staging
    except OSError as error:
        raise StorageError(f"cannot write {out or path}: {error}", "free space, or choose another --out") from error


def link_files(bundle: Bundle, staging: Path, without: Collection[str]) -> None:
    """Make ``staging`` with hard links to a bundle's files, which are never changed, without some of them."""
    staging.mkdir()
    for name in bundle.manifest["files"]:
        if name not in without:
            _link(bundle.folder / name, staging / name)


def finish_changed(bundle: Bundle, staging: Path, target: Path) -> None:
    """``finish_bundle`` with the name, model and origin of the bundle that was changed."""
    unchanged = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences", "gated")}
    finish_bundle(staging, target, **unchanged)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system has no hard links."""
    try:
        os.link(source.resolve(), target)  # in a bundle of links, what they lead to
    except OSError:
        shutil.copyfile(source, target)
