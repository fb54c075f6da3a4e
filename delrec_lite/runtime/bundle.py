"""`Bundle`: the folder that export writes and everything else reads; verified before anything in it is used."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.files import sha256_of
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.runtime.prompting.prompt import TITLES, Prompt, parse_prompt, read_titles

SCHEMA = 1
MANIFEST = "manifest.json"
# Items that came after training; their vectors lie beside them.
ADDITIONS = "additions.json"
ADDITION_ROWS = "additions.npy"
# How an item that was not trained is scored: see ``export.new_items``.
NEW_ITEMS = "new-items.npy"
# What a deep soft prompt adds between the layers: float16 ``[layers - 2, k, hidden]``.
DEEP = "deep-prompt.npy"
# Keys of the manifest's ``model`` that belong to its default model file; an entry of ``others`` has its own.
OF_ONE_MODEL = ("file", "quant", "tensor_types", "tensors", "unfit", "parity")
REMEDY = "export the run again, or copy the whole folder again"


@dataclass(frozen=True)
class Items:
    """The catalogue as served; item i is the i-th entry of each.

    Attributes:
        ids: The data set's own item ids.
        titles: Readable titles, all distinct.
        popularity: Interactions in the training part.
    """

    ids: list[str]
    titles: list[str]
    popularity: list[int]


@dataclass(frozen=True)
class Model:
    """A model of a bundle.

    Attributes:
        format: ``gguf`` or ``onnx``.
        quant: Its quantisation.
        entry: What the manifest says of it.
        files: Those that it alone needs; the first names it.
    """

    format: str
    quant: str
    entry: dict[str, Any]
    files: tuple[str, ...]


class Bundle:
    """A bundle on disk; make one with ``Bundle.open``.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], verify: bool = True, quant: str | None = None, whole: bool = False
    ) -> "Bundle":
        """Read the manifest and check every file against it.

        Args:
            path: The bundle's folder.
            verify: Check sha256 too, not sizes alone (98 MB took 0.07 s).
            quant: See ``choose``; default: the first model.
            whole: Check the sha256 of models that are not chosen too.

        Raises:
            BundleError: Missing, foreign, of another schema, incomplete or changed; names the file.
            UsageError: It holds no model of this quantisation.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"no bundle at {folder}", "check the path; `delrec-lite export` writes bundles")
        manifest = _read_json(folder / MANIFEST)
        if manifest.get("schema") != SCHEMA:
            raise BundleError(
                f"{folder} has bundle schema {manifest.get('schema')!r}; this version reads {SCHEMA}",
                "export it again with this version",
            )
        bundle = cls(folder, manifest)
        files = manifest.get("files")
        if not isinstance(files, dict) or not files:
            raise BundleError(f"{folder / MANIFEST} lists no files", REMEDY)
        added = (ADDITION_ROWS,) if bundle.holds_additions else ()
        of_models = {name for model in bundle.models for name in model.files}
        chosen = bundle if quant is None else bundle.choose(quant)
        for name in ("catalog.json", "prompt.json", *of_models, *chosen._onnx.values(), *added):
            if name not in files:
                raise BundleError(f"{folder / MANIFEST} does not list {name}", REMEDY)
        idle = set() if whole else of_models - {name for model in chosen._first_models for name in model.files}
        for name, facts in files.items():
            _check(folder, name, facts, verify and name not in idle)
        return chosen

    @property
    def name(self) -> str:
        """As exported."""
        return str(self.manifest.get("name", self.folder.stem))

    @property
    def models(self) -> list[Model]:
        """All models, the default first."""
        first, others = self._first_models, self.manifest["model"].get("others", [])
        try:
            return [*first, *(_model(str(entry["format"]), entry) for entry in others)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BundleError(f"{self.folder / MANIFEST} does not name its other models' files", REMEDY) from error

    @property
    def _first_models(self) -> list[Model]:
        """The default GGUF model, the default ONNX model, or one of both."""
        gguf, onnx = self._model_file.endswith(".gguf"), self._onnx
        first = [_model("gguf", self.manifest["model"])] if gguf or not onnx else []
        return [*first, _model("onnx", self.manifest["model"]["onnx"])] if onnx else first

    def choose(self, quant: str, model_format: str | None = None) -> "Bundle":
        """This bundle as if it held the models of one quantisation alone: one, or one of each format.

        Args:
            quant: As export named it.
            model_format: ``gguf`` or ``onnx``; None: both.

        Raises:
            UsageError: It holds none; names those it holds.
        """
        asked = {model_format or model.format for model in self.models}
        chosen = {model.format: model for model in self.models if model.quant == quant and model.format in asked}
        if not chosen:
            held = ", ".join(dict.fromkeys(model.quant for model in self.models))
            raise UsageError(f"{self.folder} holds no model of the quantisation {quant!r}", f"it holds {held}")
        first = chosen.get("gguf") or chosen["onnx"]
        shared = {k: v for k, v in self.manifest["model"].items() if k not in {*OF_ONE_MODEL, "onnx", "others"}}
        model = shared | {k: v for k, v in first.entry.items() if k in OF_ONE_MODEL}
        if "onnx" in chosen:
            model["onnx"] = chosen["onnx"].entry
        idle = {name for one in self.models for name in one.files if one not in chosen.values()}
        files = {name: facts for name, facts in self.manifest["files"].items() if name not in idle}
        return Bundle(self.folder, {**self.manifest, "model": model, "files": files})

    @property
    def _model_file(self) -> str:
        try:
            return str(self.manifest["model"]["file"])
        except (KeyError, TypeError) as error:
            raise BundleError(f"{self.folder / MANIFEST} names no model file", REMEDY) from error

    @property
    def model_path(self) -> Path:
        """The GGUF file, or the ONNX file of a bundle without one."""
        return self.folder / self._model_file

    @property
    def _onnx(self) -> dict[str, str]:
        """Names of the ONNX model's files: ``file``, ``data`` (its weights) and ``rows`` (text tokens); or none."""
        entry = self.manifest["model"].get("onnx")
        if entry is None:
            return {}
        try:
            return {role: str(entry[role]) for role in ("file", "data", "rows")}
        except (KeyError, TypeError) as error:
            raise BundleError(f"{self.folder / MANIFEST} does not name the ONNX files", REMEDY) from error

    @property
    def holds_gguf(self) -> bool:
        """Whether it has a GGUF file."""
        return self._model_file.endswith(".gguf")

    @property
    def formats(self) -> tuple[str, ...]:
        """Of the models that answer unless another is chosen: ``gguf``, ``onnx``, or both."""
        return tuple(model.format for model in self._first_models)

    @property
    def onnx_path(self) -> Path:
        """The ONNX file."""
        return self.folder / self._onnx["file"]

    @property
    def token_rows_path(self) -> Path:
        """Input rows of the text tokens, beside an ONNX file."""
        return self.folder / self._onnx["rows"]

    @cached_property
    def items(self) -> Items:
        """The catalogue: what was trained, then what `delrec-lite catalog add` brought."""
        had = self._trained
        if not self.holds_additions:
            return had
        path = self.folder / ADDITIONS
        held = _read_json(path)
        ids: Any = held.get("ids")
        titles: Any = held.get("titles")
        if not (_are(ids, str) and _are(titles, str) and len(ids) == len(titles) > 0):
            raise BundleError(f"{path}: ids and titles are not two lists of the same length", REMEDY)
        if set(ids) & set(had.ids) or set(titles) & set(had.titles):
            raise BundleError(f"{path} names an item that the catalogue has", REMEDY)
        return Items(had.ids + ids, had.titles + titles, had.popularity + [0] * len(ids))

    @cached_property
    def added_tokens(self) -> list[tuple[int, ...]]:
        """The titles' tokens of the items that were added, in a bundle that reads titles."""
        if not self.holds_additions:
            return []
        path = self.folder / ADDITIONS
        held: Any = _read_json(path).get("tokens")
        count, text = len(self.items.ids) - self.trained, self.prompt.text_tokens
        if not _are(held, list) or len(held) != count:
            raise BundleError(f"{path}: tokens is not a list for each item", REMEDY)
        if not all(title and _are(title, int) and min(title) >= 0 and max(title) < text for title in held):
            raise BundleError(f"{path}: the tokens of an item are none of the vocabulary", REMEDY)
        return [tuple(title) for title in held]

    @cached_property
    def new_items(self) -> Floats | None:
        """What makes a title's mean row the vector that scores it: float32 ``[hidden + 1, hidden]``; the last is added.

        None in a bundle of an older version: the verbalizer's scale alone does it then.
        """
        if NEW_ITEMS not in self.manifest["files"]:
            return None
        path, width = self.folder / NEW_ITEMS, self.manifest["model"].get("hidden")
        try:
            held = np.load(path, allow_pickle=False)
            if held.dtype != np.float16 or held.shape != (width + 1, width) or not np.isfinite(held).all():
                raise ValueError(f"{held.dtype} {held.shape} for a width of {width}")
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise BundleError(f"{path} does not read: {error}", REMEDY) from error
        made: Floats = held.astype(np.float32)
        return made

    @cached_property
    def deep(self) -> Floats | None:
        """What soft tokens get before the third layer and those behind it: float32 ``[layers - 2, k, hidden]``."""
        if DEEP not in self.manifest["files"]:
            return None
        path, width = self.folder / DEEP, self.manifest["model"].get("hidden")
        try:
            held = np.load(path, allow_pickle=False)
            fits = held.dtype == np.float16 and held.ndim == 3 and held.shape[1:] == (self.prompt.soft_tokens, width)
            if not fits or not np.isfinite(held).all():
                raise ValueError(f"{held.dtype} {held.shape} for {self.prompt.soft_tokens} tokens of width {width}")
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path} does not read: {error}", REMEDY) from error
        made: Floats = held.astype(np.float32)
        return made

    @property
    def holds_additions(self) -> bool:
        """Whether items were added after training."""
        return ADDITIONS in self.manifest["files"]

    @property
    def trained(self) -> int:
        """How many of the items, the first ones, were there in training."""
        return len(self._trained.ids)

    @cached_property
    def _trained(self) -> Items:
        held = _read_json(self.folder / "catalog.json")
        try:
            items = Items(held["ids"], held["titles"], held["popularity"])
        except KeyError as error:
            raise BundleError(f"{self.folder}/catalog.json has no {error}", REMEDY) from error
        for name, values, kind in (
            ("ids", items.ids, str),
            ("titles", items.titles, str),
            ("popularity", items.popularity, int),
        ):
            if not _are(values, kind):
                raise BundleError(f"{self.folder}/catalog.json: {name} is not a list of {kind.__name__}", REMEDY)
        if not len(items.ids) == len(items.titles) == len(items.popularity) > 0:
            raise BundleError(f"{self.folder}/catalog.json: ids, titles and popularity differ in length", REMEDY)
        return items

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt, without the catalogue."""
        held = _read_json(self.folder / "prompt.json")
        try:
            return parse_prompt(held)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{self.folder}/prompt.json does not read: {error}", REMEDY) from error

    @cached_property
    def prompts(self) -> Prompts:
        """The compiled prompt, with the catalogue's titles where they stand anywhere."""
        if not self.prompt.format.written:
            return self.prompt.compiled(self.trained)
        if TITLES not in self.manifest["files"]:
            raise BundleError(f"{self.folder / MANIFEST} does not list {TITLES}", REMEDY)
        try:
            titles = read_titles(self.folder, self.trained, self.prompt.text_tokens)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{self.folder / TITLES} does not read: {error}", REMEDY) from error
        return self.prompt.compiled(self.trained, titles)


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
        staging: Folder beside ``target`` with everything but the manifest; it is gone afterwards.
        target: The bundle; an older one is replaced at the last moment.
        name: Of the run.
        model: ``base``, ``architecture``, ``hidden``, ``quant``, ``file`` and more.
        provenance: Recipe, sources, figures.
        licences: By name of model and data set.
        gated: Whether the comparison with the trained model was passed.

    Raises:
        BundleError: Files of a bundle are not there; ``target`` is as it was.
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
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return Bundle(target, manifest)


def _model(kind: str, entry: Mapping[str, Any]) -> Model:
    """A model out of its entry; the rows of text tokens, which ONNX models share, are not its own.

    Raises:
        KeyError, TypeError, ValueError: The entry does not say what it must.
    """
    if kind not in {"gguf", "onnx"}:
        raise ValueError(kind)
    files = (entry["file"],) if kind == "gguf" else (entry["file"], entry["data"])
    return Model(kind, str(entry.get("quant", "")), dict(entry), tuple(str(name) for name in files))


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _check(folder: Path, name: str, facts: Any, verify: bool) -> None:
    if Path(name).name != name or name in {"", ".", ".."} or "\\" in name or not name.isprintable():
        raise BundleError(f"{folder / MANIFEST} lists {name!r}, which is not a plain file name", "do not trust it")
    if not isinstance(facts, dict):
        raise BundleError(f"{folder / MANIFEST} gives no size and sha256 of {name}", REMEDY)
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is missing", REMEDY)
    size = path.stat().st_size
    if size != facts.get("bytes"):
        raise BundleError(f"{path} has {size} bytes, its manifest says {facts.get('bytes')}", REMEDY)
    if verify and sha256_of(path) != facts.get("sha256"):
        raise BundleError(f"{path} is not the file that was exported: wrong sha256", REMEDY)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing", REMEDY) from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}", REMEDY) from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} does not hold a JSON object", REMEDY)
    return data
