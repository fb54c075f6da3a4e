"""`Bundle`: the folder that export writes and everything else reads; verified before anything in it is used."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.columns import ItemColumn, load_columns
from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.runtime.manifest import (
    ADDITION_ROWS,
    ADDITIONS,
    DEEP,
    ITEM_COLUMNS,
    ITEM_TEXT,
    MANIFEST,
    NEW_ITEMS,
    OF_ONE_MODEL,
    REMEDY,
    REPEATS,
    Model,
    all_models,
    check_file,
    default_models,
    model_file,
    onnx_files,
    read_json,
    read_manifest,
)
from delrec_lite.runtime.prompting.prompt import TITLES, Prompt, parse_prompt, read_titles
from delrec_lite.runtime.remote import located, repairing, source_of

MOST_POPULAR = 2**63 - 1


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


class Bundle:
    """A bundle on disk; make one with ``Bundle.open``.

    Attributes:
        folder: Where it is.
        manifest: The content of ``manifest.json``.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], verify: bool = True, quant: str | None = None, verify_all: bool = False
    ) -> "Bundle":
        """Read the manifest and check every file against it.

        Args:
            path: The bundle's folder, or ``hf://ORG/NAME[@REVISION]`` of the Hugging Face Hub.
            verify: Check sha256 too, not sizes alone (98 MB took 0.07 s).
            quant: See ``choose``; default: the first model.
            verify_all: Check the sha256 of models that are not chosen too.

        Raises:
            BundleError: Missing, foreign, of another schema, incomplete or changed; names the file.
            FetchError: One of the Hub cannot be fetched.
            UsageError: It holds no model of this quantisation.
        """
        folder = located(path)
        if not folder.is_dir():
            raise BundleError(f"no bundle at {folder}", "check the path; `delrec-lite export` writes bundles")
        with repairing(folder):
            return cls._open(folder, verify, quant, verify_all)

    @classmethod
    def _open(cls, folder: Path, verify: bool, quant: str | None, verify_all: bool) -> "Bundle":
        bundle = cls(folder, read_manifest(folder))
        files = bundle.manifest["files"]
        addition_files = (ADDITION_ROWS,) if bundle.holds_additions else ()
        model_files = {name for model in bundle.models for name in model.files}
        chosen = bundle if quant is None else bundle.choose(quant)
        onnx = onnx_files(folder, chosen.manifest).values()
        for name in ("catalog.json", "prompt.json", *model_files, *onnx, *addition_files):
            if name not in files:
                raise BundleError(f"{folder / MANIFEST} does not list {name}", REMEDY)
        chosen_files = {name for model in chosen._default_models for name in model.files}
        unverified = set() if verify_all else model_files - chosen_files
        for name, facts in files.items():
            check_file(folder, name, facts, verify and name not in unverified)
        return chosen

    @property
    def name(self) -> str:
        """Its name at export."""
        return str(self.manifest.get("name", self.folder.stem))

    @property
    def source(self) -> str:
        """Where it comes from: ``hf://ORG/NAME@COMMIT`` for one of the Hub, else its folder."""
        return source_of(self.folder)

    @cached_property
    def label(self) -> str:
        """Its name and a hash of its manifest, ``shop@1f2e3d4c5b6a``: another export is another label."""
        content = json.dumps(self.manifest, sort_keys=True).encode()
        return f"{self.name}@{hashlib.sha256(content).hexdigest()[:12]}"

    @property
    def models(self) -> list[Model]:
        """All models, the default first."""
        return all_models(self.folder, self.manifest)

    @property
    def _default_models(self) -> list[Model]:
        return default_models(self.folder, self.manifest)

    def choose(self, quant: str, model_format: str | None = None) -> "Bundle":
        """This bundle as if it held the models of one quantisation alone: one, or one of each format.

        Args:
            quant: As export named it.
            model_format: ``gguf`` or ``onnx``; None: both.

        Raises:
            UsageError: It holds none; names those that it holds.
        """
        models = self.models
        formats = {model_format or model.format for model in models}
        chosen = {model.format: model for model in models if model.quant == quant and model.format in formats}
        if not chosen:
            names = ", ".join(dict.fromkeys(model.quant for model in models))
            raise UsageError(f"{self.folder} holds no model of the quantisation {quant!r}", f"it holds {names}")
        first = chosen.get("gguf") or chosen["onnx"]
        shared = {k: v for k, v in self.manifest["model"].items() if k not in {*OF_ONE_MODEL, "onnx", "others"}}
        entry = shared | {k: v for k, v in first.entry.items() if k in OF_ONE_MODEL}
        if "onnx" in chosen:
            entry["onnx"] = chosen["onnx"].entry
        unused = {name for model in models for name in model.files if model not in chosen.values()}
        files = {name: facts for name, facts in self.manifest["files"].items() if name not in unused}
        return Bundle(self.folder, {**self.manifest, "model": entry, "files": files})

    @property
    def model_path(self) -> Path:
        """The GGUF file, or the ONNX file of a bundle without one."""
        return self.folder / model_file(self.folder, self.manifest)

    @property
    def holds_gguf(self) -> bool:
        """Whether it has a GGUF file."""
        return self.model_path.name.endswith(".gguf")

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of the default models: ``gguf``, ``onnx``, or both."""
        return tuple(model.format for model in self._default_models)

    @property
    def onnx_path(self) -> Path:
        """The ONNX file."""
        return self.folder / onnx_files(self.folder, self.manifest)["file"]

    @property
    def token_rows_path(self) -> Path:
        """Input rows of the text tokens, beside an ONNX file."""
        return self.folder / onnx_files(self.folder, self.manifest)["rows"]

    @cached_property
    def items(self) -> Items:
        """The catalogue: the trained items, then those that `delrec-lite catalog add` added."""
        trained = self._trained
        if not self.holds_additions:
            return trained
        path = self.folder / ADDITIONS
        additions = read_json(path)
        ids: Any = additions.get("ids")
        titles: Any = additions.get("titles")
        if not (_is_list_of(ids, str) and _is_list_of(titles, str) and len(ids) == len(titles) > 0):
            raise BundleError(f"{path}: ids and titles are not two lists of the same length", REMEDY)
        if set(ids) & set(trained.ids) or set(titles) & set(trained.titles):
            raise BundleError(f"{path} names an item that the catalogue has", REMEDY)
        return Items(trained.ids + ids, trained.titles + titles, trained.popularity + [0] * len(ids))

    @cached_property
    def columns(self) -> tuple[ItemColumn, ...]:
        """The columns of the catalogue, added items included; none in a bundle of a data set without them."""
        if ITEM_COLUMNS not in self.manifest["files"]:
            return ()
        path = self.folder / ITEM_COLUMNS
        try:
            return load_columns(read_json(path), len(self.items.ids))
        except ValueError as error:
            raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error

    @cached_property
    def added_tokens(self) -> list[tuple[int, ...]]:
        """Title tokens of the added items, in a bundle whose histories are titles."""
        if not self.holds_additions:
            return []
        path = self.folder / ADDITIONS
        titles: Any = read_json(path).get("tokens")
        count, text = len(self.items.ids) - self.trained, self.prompt.text_tokens
        if not _is_list_of(titles, list) or len(titles) != count:
            raise BundleError(f"{path}: tokens is not a list for each item", REMEDY)
        if not all(title and _is_list_of(title, int) and min(title) >= 0 and max(title) < text for title in titles):
            raise BundleError(f"{path}: an item has tokens outside the vocabulary", REMEDY)
        return [tuple(title) for title in titles]

    @property
    def new_item_boost(self) -> float | None:
        """What the maps of item text add to a new item's score at the mean state; None without item text."""
        boost = self.manifest["model"].get("new_item_boost")
        return float(boost) if isinstance(boost, int | float) and not isinstance(boost, bool) else None

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the side text that its data set was prepared with, as far as the manifest says it."""
        at: Any = self.manifest
        for key in ("provenance", "recipe", "data", "text_columns"):
            at = at.get(key) if isinstance(at, dict) else None
        return tuple(at) if _is_list_of(at, str) else ()

    @cached_property
    def added_texts(self) -> list[str]:
        """Side text of each added item; empty ones where they were added before side text was kept."""
        if not self.holds_additions:
            return []
        path, count = self.folder / ADDITIONS, len(self.items.ids) - self.trained
        texts: Any = read_json(path).get("texts", [""] * count)
        if not _is_list_of(texts, str) or len(texts) != count:
            raise BundleError(f"{path}: texts is not a text for each item", REMEDY)
        return list(texts)

    @cached_property
    def new_items(self) -> Floats | None:
        """Linear map from a title's mean row to the vector that scores it: float32 ``[hidden + 1, hidden]``.

        The last row is the bias. None in a bundle of an older version or of a model with item text: then the
        verbalizer's scale replaces the map.
        """
        return self._linear_maps(NEW_ITEMS)

    @cached_property
    def item_text(self) -> Floats | None:
        """Linear maps from a text's mean row to what it adds to a new item's two vectors: ``[2, hidden + 1, hidden]``.

        First the input vector, then the one that scores it; float32, the last row of each is the bias. None in a bundle
        of a model without item text.
        """
        return self._linear_maps(ITEM_TEXT, 2)

    def _linear_maps(self, name: str, *count: int) -> Floats | None:
        """The linear maps in a file, None where the bundle has no such file."""
        if name not in self.manifest["files"]:
            return None
        path, width = self.folder / name, self.manifest["model"].get("hidden")
        try:
            maps = np.load(path, allow_pickle=False)
            if maps.dtype != np.float16 or maps.shape != (*count, width + 1, width) or not np.isfinite(maps).all():
                raise ValueError(f"{maps.dtype} {maps.shape} for a width of {width}")
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
        linear_maps: Floats = maps.astype(np.float32)
        return linear_maps

    @cached_property
    def deep(self) -> Floats | None:
        """Added to the soft tokens before the third and each later layer: float32 ``[layers - 2, k, hidden]``."""
        if DEEP not in self.manifest["files"]:
            return None
        path, width = self.folder / DEEP, self.manifest["model"].get("hidden")
        try:
            vectors = np.load(path, allow_pickle=False)
            fits = vectors.ndim == 3 and vectors.shape[1:] == (self.prompt.soft_tokens, width)
            if not fits or vectors.dtype != np.float16 or not np.isfinite(vectors).all():
                raise ValueError(
                    f"{vectors.dtype} {vectors.shape} for {self.prompt.soft_tokens} tokens of width {width}"
                )
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
        deep: Floats = vectors.astype(np.float32)
        return deep

    @property
    def repeats(self) -> bool:
        """Whether an item of a history may come again: what its data set says; False where it says nothing."""
        return self.manifest["model"].get(REPEATS) is True

    @property
    def holds_additions(self) -> bool:
        """Whether items were added after training."""
        return ADDITIONS in self.manifest["files"]

    @property
    def trained(self) -> int:
        """How many items were trained; they are the first ones of the catalogue."""
        return len(self._trained.ids)

    @cached_property
    def _trained(self) -> Items:
        catalog = read_json(self.folder / "catalog.json")
        try:
            items = Items(catalog["ids"], catalog["titles"], catalog["popularity"])
        except KeyError as error:
            raise BundleError(f"{self.folder}/catalog.json has no {error}", REMEDY) from error
        for name, values, kind in (
            ("ids", items.ids, str),
            ("titles", items.titles, str),
            ("popularity", items.popularity, int),
        ):
            if not _is_list_of(values, kind):
                raise BundleError(f"{self.folder}/catalog.json: {name} is not a list of {kind.__name__}", REMEDY)
        if min(items.popularity, default=0) < 0 or max(items.popularity, default=0) > MOST_POPULAR:
            raise BundleError(f"{self.folder}/catalog.json: popularity holds what is no count", REMEDY)
        if not len(items.ids) == len(items.titles) == len(items.popularity) > 0:
            raise BundleError(f"{self.folder}/catalog.json: ids, titles and popularity differ in length", REMEDY)
        return items

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt, without the catalogue."""
        content = read_json(self.folder / "prompt.json")
        try:
            return parse_prompt(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleError(f"{self.folder}/prompt.json cannot be read: {error}", REMEDY) from error

    @cached_property
    def prompts(self) -> Prompts:
        """The compiled prompt, with the catalogue's titles where the prompt contains them."""
        if not self.prompt.format.written:
            return self.prompt.compiled(self.trained)
        if TITLES not in self.manifest["files"]:
            raise BundleError(f"{self.folder / MANIFEST} does not list {TITLES}", REMEDY)
        try:
            titles = read_titles(self.folder, self.trained, self.prompt.text_tokens)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{self.folder / TITLES} cannot be read: {error}", REMEDY) from error
        return self.prompt.compiled(self.trained, titles)


def _is_list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(issubclass(found, kind) for found in set(map(type, values)))
