"""A bundle with more items: what a new item is read and scored by is written beside the model, which stays as it is."""

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
from delrec_lite.runtime.bundle import ADDITION_ROWS, ADDITIONS, finish_bundle
from delrec_lite.runtime.recommender import Recommender


@dataclass(frozen=True)
class Added:
    """What `add_items` did.

    Attributes:
        folder: The bundle.
        titles: Of the new items, as the catalogue has them now.
        items: How many items it has in all.
    """

    folder: Path
    titles: list[str]
    items: int


def add_items(path: str | os.PathLike[str], new: Mapping[str, str], out: Path | None = None) -> Added:
    """Write a bundle with more items; a title that the catalogue has already gets a number behind it.

    Args:
        path: The bundle.
        new: Title of each new item id.
        out: The bundle to write; default: ``path`` itself, replaced as a whole at the last moment.

    Raises:
        UsageError: Nothing to add, or an id that is there already.
        BundleError: ``path`` is no bundle.
        StorageError: The new one cannot be written.
    """
    target = out or Path(path)
    with Recommender.load(path) as recommender:
        bundle = recommender.bundle
        if not bundle.prompt.format.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and has no catalogue to add to", "name new ones there: --allow-new"
            )
        had = bundle.items
        if known := [item for item in new if item in set(had.ids)]:
            raise UsageError(
                f"{len(known)} of the items are in the catalogue, {known[0]!r} the first", "leave them out of the list"
            )
        if not new:
            raise UsageError("there are no items to add", "give a list of ids and titles")
        titles = list(unique_titles([*had.titles, *new.values()], [*had.popularity, *[0] * len(new)]))
        rows = np.stack([recommender.new_item(title) for title in new.values()], axis=1)
        named: dict[str, Any] = {}
        if bundle.prompt.format.history_format.titles:
            named["tokens"] = [*bundle.added_tokens, *map(recommender.new_entry, new.values())]
        if bundle.holds_additions:
            rows = np.concatenate([np.load(bundle.folder / ADDITION_ROWS, allow_pickle=False), rows], axis=1)
    named |= {"ids": [*had.ids[bundle.trained :], *new], "titles": titles[bundle.trained :]}
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        staging.mkdir(parents=True)
        for name in bundle.manifest["files"]:
            if name not in {ADDITIONS, ADDITION_ROWS}:
                _link(bundle.folder / name, staging / name)
        (staging / ADDITIONS).write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
        np.save(staging / ADDITION_ROWS, rows.astype(np.float32), allow_pickle=False)
        kept = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences", "gated")}
        finish_bundle(staging, target, **kept)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}", "free space, or choose another with --out") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Added(target, titles[len(had.titles) :], len(titles))


def _link(source: Path, target: Path) -> None:
    """A second name for a file that nobody changes; a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
