"""A bundle's files: their names, the manifest that lists them, its models, and the check of each file."""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.errors import BundleError
from delrec_lite.files import sha256_of

SCHEMA = 1
MANIFEST = "manifest.json"
# Items that were added after training; their vectors are in the second file.
ADDITIONS = "additions.json"
ADDITION_ROWS = "additions.npy"
# Columns of the whole catalogue, such as category and price: see ``data.columns``.
ITEM_COLUMNS = "item-columns.json"
# How an item that was not trained is scored: see ``export.new_items``.
NEW_ITEMS = "new-items.npy"
# What a text adds to a new item's vectors, in a bundle of a model with item text: see ``export.text_items``.
ITEM_TEXT = "item-text.npy"
# A key of the manifest's ``model``: the model was trained with the teacher inside, and answers with it by default.
INSIDE = "teacher_inside"
# What a deep soft prompt adds between the layers: float16 ``[layers - 2, k, hidden]``.
DEEP = "deep-prompt.npy"
# Short vectors of all items, which find the best ones: see ``runtime.item_index``; and what shortens rows and states.
INDEX = "item-index.npy"
INDEX_MAPS = "item-index-maps.npy"
# Key of the manifest's ``model``: how short the vectors are, and how many of the best items are scored exactly.
INDEX_FACTS = "item_index"
# Keys of the manifest's ``model`` that belong to its default model file; an entry of ``others`` has its own.
OF_ONE_MODEL = ("file", "quant", "tensor_types", "tensors", "unfit", "parity")
# Key of the manifest's ``model``: whether items of a history may be recommended again, as the data set says.
REPEATS = "repeats"
REMEDY = "export the run again, or copy the whole folder again"


@dataclass(frozen=True)
class Model:
    """A model of a bundle.

    Attributes:
        format: ``gguf`` or ``onnx``.
        quant: Its quantisation.
        entry: Its entry in the manifest.
        files: The files that no other model needs; the first one names the model.
    """

    format: str
    quant: str
    entry: dict[str, Any]
    files: tuple[str, ...]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, checked as far as its schema and its list of files.

    Raises:
        BundleError: It is missing, of another schema, or lists no files.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise BundleError(
            f"{folder} has bundle schema {manifest.get('schema')!r}; this version reads {SCHEMA}",
            "export it again with this version",
        )
    if not isinstance(manifest.get("files"), dict) or not manifest["files"]:
        raise BundleError(f"{folder / MANIFEST} lists no files", REMEDY)
    return manifest


def bundle_files(folder: Path) -> set[str] | None:
    """The files of a bundle in ``folder``, see ``files.check_folder``; None if there is no bundle."""
    try:
        return {MANIFEST, *read_manifest(folder)["files"]}
    except (BundleError, OSError):
        return None


def model_file(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Name of the default model's file.

    Raises:
        BundleError: There is none.
    """
    try:
        return str(manifest["model"]["file"])
    except (KeyError, TypeError) as error:
        raise BundleError(f"{folder / MANIFEST} names no model file", REMEDY) from error


def onnx_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Names of the default ONNX model's files: ``file``, ``data`` (its weights) and ``rows`` (text tokens); or none.

    Raises:
        BundleError: The entry is incomplete.
    """
    entry = manifest["model"].get("onnx")
    if entry is None:
        return {}
    try:
        return {role: str(entry[role]) for role in ("file", "data", "rows")}
    except (KeyError, TypeError) as error:
        raise BundleError(f"{folder / MANIFEST} does not name the ONNX files", REMEDY) from error


def default_models(folder: Path, manifest: Mapping[str, Any]) -> list[Model]:
    """The default GGUF model, the default ONNX model, or one of both.

    Raises:
        BundleError: The manifest does not name their files.
    """
    gguf, onnx = model_file(folder, manifest).endswith(".gguf"), onnx_files(folder, manifest)
    models = [_model("gguf", manifest["model"])] if gguf or not onnx else []
    return [*models, _model("onnx", manifest["model"]["onnx"])] if onnx else models


def all_models(folder: Path, manifest: Mapping[str, Any]) -> list[Model]:
    """All models, the default ones first.

    Raises:
        BundleError: The manifest does not name their files.
    """
    models, entries = default_models(folder, manifest), manifest["model"].get("others", [])
    try:
        return [*models, *(_model(str(entry["format"]), entry) for entry in entries)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST} does not name its other models' files", REMEDY) from error


def _model(model_format: str, entry: Mapping[str, Any]) -> Model:
    """A model out of its entry; the rows of text tokens, which ONNX models share, are not among its files.

    Raises:
        KeyError, TypeError, ValueError: The entry is incomplete.
    """
    if model_format not in {"gguf", "onnx"}:
        raise ValueError(model_format)
    files = (entry["file"],) if model_format == "gguf" else (entry["file"], entry["data"])
    return Model(model_format, str(entry.get("quant", "")), dict(entry), tuple(str(name) for name in files))


def check_name(folder: Path, name: str) -> None:
    """Check that a manifest lists a file of its own folder.

    Raises:
        BundleError: The name is no plain file name.
    """
    if Path(name).name != name or name in {"", ".", ".."} or "\\" in name or not name.isprintable():
        raise BundleError(f"{folder / MANIFEST} lists {name!r}, which is not a plain file name", "do not trust it")


def check_file(folder: Path, name: str, facts: Any, verify: bool) -> None:
    """Compare a file with its entry in the manifest.

    Args:
        folder: Of the bundle.
        name: Of the file.
        facts: Its ``bytes`` and ``sha256`` as the manifest has them.
        verify: Compare the sha256 too, not the size alone.

    Raises:
        BundleError: The name is no plain file name, the file is missing or no regular file, or it differs.
    """
    check_name(folder, name)
    if not isinstance(facts, dict):
        raise BundleError(f"{folder / MANIFEST} gives no size and sha256 of {name}", REMEDY)
    path = folder / name
    size = _regular_size(path)
    if size != facts.get("bytes"):
        raise BundleError(f"{path} has {size} bytes, its manifest says {facts.get('bytes')}", REMEDY)
    try:  # what a link brings in is always hashed, so that it can be nothing but the exported file
        if (verify or path.is_symlink()) and sha256_of(path) != facts.get("sha256"):
            raise BundleError(f"{path} is not the file that was exported: wrong sha256", REMEDY)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}", REMEDY) from error


def _regular_size(path: Path) -> int:
    """Size of a regular file; a link to one is followed.

    Raises:
        BundleError: It is missing, no regular file, or a link to nothing.
    """
    link = f", a link to {path.readlink()}," if path.is_symlink() else ""
    remedy = "copy the bundle with the files that its links lead to: cp -rL" if link else REMEDY
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        problem = "leads to nothing" if link else "is missing"
        raise BundleError(f"{path}{link} {problem}", remedy) from error
    except OSError as error:
        raise BundleError(f"{path}{link} cannot be read: {error.strerror or error}", remedy) from error
    if not stat.S_ISREG(facts.st_mode):
        raise BundleError(f"{path}{link} is no regular file", remedy)
    return facts.st_size


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file.

    Raises:
        BundleError: It is missing or holds none.
    """
    _regular_size(path)  # a pipe would be waited for
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}", REMEDY) from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}", REMEDY) from error
    except RecursionError as error:
        raise BundleError(f"{path} is not JSON of a bundle: nested too deep", REMEDY) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} does not hold a JSON object", REMEDY)
    return content
