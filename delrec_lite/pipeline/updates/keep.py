"""What the old bundle was given after its training, without training: added items, and other values in item columns."""

from collections.abc import Collection
from pathlib import Path

from delrec_lite.data.columns import ItemRows
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.new_columns import set_columns


def keep_given(old: Path, new: Path, listed: Collection[str]) -> None:
    """Give the new bundle what ``catalog add`` and ``catalog columns`` gave the old one.

    Args:
        old: The bundle before the update.
        new: The bundle after it.
        listed: Items whose values in columns are those of the update's own list.
    """
    opened = Bundle.open(old, verify=False)
    items, columns = opened.items, opened.columns
    if opened.holds_additions:
        known, added = set(Bundle.open(new, verify=False).items.ids), range(opened.trained, len(items.ids))
        titles = {items.ids[n]: items.titles[n] for n in added if items.ids[n] not in known}
        texts = dict(zip(items.ids[opened.trained :], opened.added_texts, strict=True))
        if titles:
            add_items(new, titles, texts=texts)
    kept = [n for n, item in enumerate(items.ids) if item not in listed]
    if columns and kept:
        set_columns(new, ItemRows([items.ids[n] for n in kept], tuple(column.take(kept) for column in columns)))
