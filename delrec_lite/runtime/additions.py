"""Adds items to a bundle: the vectors that a new item is read and scored by are written beside the unchanged model."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.titles import unique_titles
from delrec_lite.errors import StorageError, UsageError
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.manifest import ADDITION_ROWS, ADDITIONS
from delrec_lite.runtime.recommender import Recommender


@dataclass(frozen=True)
class Additions:
    """The result of `add_items`.

    Attributes:
        folder: The bundle.
        titles: Titles of the new items, as the catalogue has them now.
        items: Number of items in the whole catalogue.
    """

    folder: Path
    titles: list[str]
    items: int


def add_items(
    path: str | os.PathLike[str],
    new: Mapping[str, str],
    out: Path | None = None,
    texts: Mapping[str, str] | None = None,
) -> Additions:
    """Write a bundle with more items; a title that the catalogue already has gets a number behind it.

    Args:
        path: The bundle.
        new: Title of each new item id.
        out: The bundle to write; default: ``path`` itself, replaced as a whole at the last moment.
        texts: Side text of new item ids, for a model with item text.

    Raises:
        UsageError: Nothing to add, or an id that the catalogue already has.
        BundleError: ``path`` is no bundle.
        StorageError: The new bundle cannot be written.
    """
    target = out or Path(path)
    with Recommender.load(path) as recommender:
        bundle = recommender.bundle
        if not bundle.prompt.format.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and has no catalogue to add to",
                "name new items among the candidates: --allow-new",
            )
        catalogue = bundle.items
        if duplicates := [item for item in new if item in set(catalogue.ids)]:
            raise UsageError(
                f"{len(duplicates)} of the items are in the catalogue, the first is {duplicates[0]!r}",
                "leave them out of the list",
            )
        if not new:
            raise UsageError("there are no items to add", "give a list of ids and titles")
        popularity = [*catalogue.popularity, *[0] * len(new)]
        titles = list(unique_titles([*catalogue.titles, *new.values()], popularity))
        texts = texts or {}
        rows = np.stack([recommender.new_item(title, texts.get(item, "")) for item, title in new.items()], axis=1)
        content: dict[str, Any] = {}
        if bundle.prompt.format.history_format.titles:
            content["tokens"] = [*bundle.added_tokens, *map(recommender.new_entry, new.values())]
        if bundle.holds_additions:
            rows = np.concatenate([np.load(bundle.folder / ADDITION_ROWS, allow_pickle=False), rows], axis=1)
    content |= {"ids": [*catalogue.ids[bundle.trained :], *new], "titles": titles[bundle.trained :]}
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        staging.mkdir(parents=True)
        for name in bundle.manifest["files"]:
            if name not in {ADDITIONS, ADDITION_ROWS}:
                _link(bundle.folder / name, staging / name)
        (staging / ADDITIONS).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        np.save(staging / ADDITION_ROWS, rows.astype(np.float32), allow_pickle=False)
        unchanged = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences", "gated")}
        finish_bundle(staging, target, **unchanged)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}", "free space, or choose another --out") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Additions(target, titles[len(catalogue.titles) :], len(titles))


def _link(source: Path, target: Path) -> None:
    """Hard-link a file that is never changed; copy it where the file system has no hard links."""
    try:
        os.link(source.resolve(), target)  # in a bundle of links, what they lead to
    except OSError:
        shutil.copyfile(source, target)
