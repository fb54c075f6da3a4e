"""Adds items to a bundle: the vectors that a new item is read and scored by are written beside the unchanged model."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.columns import NO_COLUMNS, ItemColumn, ItemRows, dump_columns
from delrec_lite.data.titles import unique_titles
from delrec_lite.data.types import Floats
from delrec_lite.errors import UsageError
from delrec_lite.runtime.changing import changing, finish_changed, link_files
from delrec_lite.runtime.item_index.index import ItemIndex, extend_index
from delrec_lite.runtime.manifest import ADDITION_ROWS, ADDITIONS, INDEX, ITEM_COLUMNS
from delrec_lite.runtime.recommender import Recommender


@dataclass(frozen=True)
class Additions:
    """The result of `add_items`.

    Attributes:
        folder: The bundle.
        titles: Titles of the new items, as the catalogue has them now.
        items: Number of items in the whole catalogue.
        known: Ids of the list that the catalogue already had; they were left as they are.
    """

    folder: Path
    titles: list[str]
    items: int
    known: list[str]


def add_items(
    path: str | os.PathLike[str],
    new: Mapping[str, str],
    out: Path | None = None,
    texts: Mapping[str, str] | None = None,
    rows: ItemRows = NO_COLUMNS,
) -> Additions:
    """Write a bundle with more items; a title that the catalogue already has gets a number behind it.

    One process at a time writes a bundle, so that of several calls at once none is lost.

    Args:
        path: The bundle.
        new: Title of each new item id; ids that the catalogue already has are left out.
        out: The bundle to write; default: ``path`` itself, replaced as a whole at the last moment.
        texts: Side text of new item ids, for a model with item text and for words beside a history.
        rows: Item columns of new item ids; a column of the bundle that is not among them has no value for them.

    Raises:
        UsageError: Nothing to add, or a column that the bundle has not, or has in another type.
        BundleError: ``path`` is no bundle.
        StorageError: The new bundle cannot be written, or ``out`` is neither absent nor a bundle.
    """
    with changing(Path(path), out) as (source, target, staging):
        return replace(_add(source, target, staging, new, texts or {}, rows), folder=out or Path(path))


def _add(
    source: Path, target: Path, staging: Path, new: Mapping[str, str], texts: Mapping[str, str], given: ItemRows
) -> Additions:
    """``add_items`` into ``staging``, which becomes ``target``."""
    with Recommender.load(source) as recommender:
        bundle = recommender.bundle
        if not bundle.prompt.format.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and has no catalogue to add to",
                "name new items among the candidates: --allow-new",
            )
        if not new:
            raise UsageError("there are no items to add", "give a list of ids and titles")
        catalogue = bundle.items
        ids = set(catalogue.ids)
        known = [item for item in new if item in ids]
        new = {item: title for item, title in new.items() if item not in ids}
        titles = catalogue.titles
        columns = _longer_columns(bundle.columns, given, list(new))
        if new:
            popularity = [*catalogue.popularity, *[0] * len(new)]
            titles = list(unique_titles([*titles, *new.values()], popularity))
            content, rows = _additions(recommender, new, texts)
            content |= {"ids": [*catalogue.ids[bundle.trained :], *new], "titles": titles[bundle.trained :]}
            content["texts"] = [*bundle.added_texts, *(texts.get(item, "") for item in new)]
    if new or target != source:
        link_files(bundle, staging, {ADDITIONS, ADDITION_ROWS, ITEM_COLUMNS, INDEX} if new else set())
        if new and ItemIndex.is_in(bundle):
            extend_index(bundle, rows[1, -len(new) :], staging)
        if new:
            (staging / ADDITIONS).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            np.save(staging / ADDITION_ROWS, rows.astype(np.float32), allow_pickle=False)
        if new and columns:
            dumped = json.dumps(dump_columns(columns), ensure_ascii=False)
            (staging / ITEM_COLUMNS).write_text(dumped, encoding="utf-8")
        finish_changed(bundle, staging, target)
    return Additions(target, titles[len(catalogue.titles) :], len(titles), known)


def _additions(
    recommender: Recommender, new: Mapping[str, str], texts: Mapping[str, str]
) -> tuple[dict[str, Any], Floats]:
    """The added items' title tokens, where the history is titles, and their vectors ``[2, items, hidden]``."""
    bundle = recommender.bundle
    content: dict[str, Any] = {}
    rows = np.stack([recommender.new_item(title, texts.get(item, "")) for item, title in new.items()], axis=1)
    if bundle.prompt.format.history_format.titles:
        content["tokens"] = [*bundle.added_tokens, *map(recommender.new_entry, new.values())]
    if bundle.holds_additions:
        rows = np.concatenate([np.load(bundle.folder / ADDITION_ROWS, allow_pickle=False), rows], axis=1)
    return content, rows


def _longer_columns(columns: Sequence[ItemColumn], given: ItemRows, new: Sequence[str]) -> list[ItemColumn]:
    """A bundle's columns with the values of new items behind those that they have.

    Raises:
        UsageError: A given column is not among them, or of another type.
    """
    kinds = {column.name: column.kind for column in columns}
    values = {}
    for column in given.of(new):
        if column.name not in kinds:
            names = f"it has {', '.join(kinds)}" if kinds else "prepare its data set with --item-columns"
            raise UsageError(f"this bundle has no item column {column.name!r}", names)
        if column.kind != kinds[column.name]:
            kind = kinds[column.name]
            raise UsageError(f"{column.name!r} is {column.kind} here and {kind} in the bundle", f"give it as {kind}")
        values[column.name] = column.values
    nothing = (None,) * len(new)
    return [ItemColumn(c.name, c.kind, (*c.values, *values.get(c.name, nothing))) for c in columns]
