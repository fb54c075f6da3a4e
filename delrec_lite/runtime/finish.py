"""`finish_bundle`: turns a folder of written files into a bundle, which replaces an older one at the last moment."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.files import put_in_place, sha256_of
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import MANIFEST, SCHEMA, bundle_files


def finish_bundle(
    staging: Path,
    target: Path,
    *,
    name: str,
    model: Mapping[str, Any],
    provenance: Mapping[str, Any],
    licences: Mapping[str, str],
    gated: bool,
) -> Bundle:
    """Make the files in ``staging`` a bundle named ``target``: hash, list, verify, rename.

    Args:
        staging: Folder beside ``target`` with everything but the manifest; it becomes ``target``.
        target: The bundle; an older one is replaced at the last moment.
        name: Of the run.
        model: ``base``, ``architecture``, ``hidden``, ``quant``, ``file`` and more.
        provenance: Recipe, sources, figures.
        licences: By name of model and data set.
        gated: Whether it passed the comparison with the trained model.

    Raises:
        BundleError: A file that a bundle needs is missing; ``target`` is unchanged.
        StorageError: ``target`` is neither absent nor a bundle; it is unchanged.
    """
    files = {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(staging.iterdir())
        if path.name != MANIFEST and path.is_file()
    }
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gated": gated,
        "model": dict(model),
        "files": files,
        "provenance": dict(provenance),
        "licences": dict(licences),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (staging / MANIFEST).write_text(text, encoding="utf-8")
    Bundle.open(staging, verify=False)
    put_in_place(staging, target, "bundle", bundle_files)
    return Bundle(target, manifest)
