"""Gives the items of a bundle new values in their columns, or columns that it had not; the model stays unchanged."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delrec_lite.data.columns import ItemColumn, ItemRows, dump_columns
from delrec_lite.errors import UsageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.changing import changing, finish_changed, link_files
from delrec_lite.runtime.manifest import ITEM_COLUMNS


@dataclass(frozen=True)
class NewColumns:
    """The result of ``set_columns``.

    Attributes:
        folder: The bundle.
        columns: Type of each column that it has now, by name.
        items: How many items of the catalogue the list names.
        unknown: How many of the list's ids the catalogue does not have.
    """

    folder: Path
    columns: dict[str, str]
    items: int
    unknown: int


def set_columns(path: str | os.PathLike[str], rows: ItemRows, out: Path | None = None) -> NewColumns:
    """Write a bundle whose items have other values in some columns.

    An item that the list does not name keeps its value; where a column is new or gets another type, it has none.

    Args:
        path: The bundle.
        rows: The columns, by item id.
        out: The bundle to write; default: ``path`` itself, replaced as a whole at the last moment.

    Raises:
        UsageError: No columns, or no id of the catalogue.
        BundleError: ``path`` is no bundle.
        StorageError: The new bundle cannot be written, or ``out`` is neither absent nor a bundle.
    """
    if not rows.columns:
        raise UsageError("there are no columns to set", "name them: --item-columns price,available")
    with changing(Path(path), out) as (source, target, staging):
        bundle = Bundle.open(source)
        ids = bundle.items.ids
        listed, known = set(rows.ids), set(ids)
        named = [item in listed for item in ids]
        if not any(named):
            raise UsageError("the list names no item of the catalogue", "ids are those of the data set")
        old = {column.name: column for column in bundle.columns}
        columns = old | {new.name: _merged(old.get(new.name), new, named) for new in rows.of(ids)}
        link_files(bundle, staging, {ITEM_COLUMNS})
        dumped = json.dumps(dump_columns(list(columns.values())), ensure_ascii=False)
        (staging / ITEM_COLUMNS).write_text(dumped, encoding="utf-8")
        finish_changed(bundle, staging, target)
    kinds = {name: column.kind for name, column in columns.items()}
    return NewColumns(out or Path(path), kinds, sum(named), len(listed - known))


def _merged(old: ItemColumn | None, new: ItemColumn, named: Sequence[bool]) -> ItemColumn:
    """The new column, with the old values of items that the list does not name."""
    if old is None or old.kind != new.kind:
        return new
    values = zip(old.values, new.values, named, strict=True)
    return ItemColumn(new.name, new.kind, tuple(after if is_named else before for before, after, is_named in values))
