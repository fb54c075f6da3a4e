"""Which items can be recommended now: as the bundle's column ``available`` says, and as was changed since."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.columns import AVAILABLE, NUMBER, TRUTH
from delrec_lite.data.types import Bools
from delrec_lite.errors import UsageError
from delrec_lite.runtime.arguments import titles_in
from delrec_lite.runtime.bundle import Items
from delrec_lite.runtime.item_columns import ItemColumns
from delrec_lite.runtime.matching import Matcher
from delrec_lite.runtime.resolving import Skipped


@dataclass(frozen=True)
class Change:
    """The result of a change.

    Attributes:
        changed: How many items can be recommended now and could not before, or the other way round.
        skipped: What names no item of the catalogue; it was left out.
    """

    changed: int
    skipped: list[Skipped]


class Availability:
    """Which items of a catalogue can be recommended. Unavailable ones stay in histories. Safe under threads.

    An item without a value in the column ``available`` is available, and so is every item without such a column.

    Args:
        items: The catalogue.
        columns: Its columns.
        matcher: Finds its items.
    """

    def __init__(self, items: Items, columns: ItemColumns, matcher: Matcher) -> None:
        self._items, self._matcher = items, matcher
        self._lock = threading.Lock()
        self._mask = np.ones(len(items.ids) + 1, dtype=bool)  # the last: any item outside the catalogue
        if AVAILABLE in columns and columns[AVAILABLE].kind in (TRUTH, NUMBER):
            column = columns[AVAILABLE]
            self._mask = column.is_true() | column.missing
        self._mask.setflags(write=False)
        self._changes: dict[str, bool] = {}

    @property
    def mask(self) -> Bools:
        """Where an item is available: bool ``[items + 1]``, not to be written to, the last for new items: true.

        A change makes another array, so that one request sees one state.
        """
        return self._mask

    @property
    def changes(self) -> dict[str, bool]:
        """What was changed so far: whether an item is available, by item id."""
        with self._lock:
            return dict(self._changes)

    @property
    def unavailable(self) -> list[int]:
        """Indices of the items that are not available."""
        indices: list[int] = np.flatnonzero(~self._mask).tolist()
        return indices

    def lacks(self, item_id: str) -> bool:
        """Whether no item of the catalogue has an id."""
        return self._matcher.by_id(item_id) is None

    def named(self, available: Any, unavailable: Any) -> tuple[dict[str, bool], list[Skipped]]:
        """What two lists of items would change, by item id, and what in them names no item.

        Raises:
            UsageError: They are no lists of ids or titles, or one item is in both.
        """
        changes: dict[str, bool] = {}
        skipped: list[Skipped] = []
        for where, is_available, values in (("available", True, available), ("unavailable", False, unavailable)):
            for text in map(str, titles_in(values, where)):
                index = self._matcher.exact(text)
                if index is None:
                    skipped.append(Skipped(text, where, f"no item has the id or title {text!r}"))
                elif changes.setdefault(self._items.ids[index], is_available) is not is_available:
                    raise UsageError(f"{text[:60]!r} is in both lists", "name it as available or as unavailable")
        return changes, skipped

    def change(self, available: Sequence[str] = (), unavailable: Sequence[str] = ()) -> Change:
        """Make items available or not, from the next request on.

        Args:
            available: Ids, ``id:<item id>`` or whole titles.
            unavailable: The same.

        Raises:
            UsageError: See ``named``; nothing is changed.
        """
        changes, skipped = self.named(available, unavailable)
        return Change(self.apply(changes), skipped)

    def apply(self, changes: Mapping[str, bool]) -> int:
        """Make items available or not by their ids; ids that the catalogue lacks are left out.

        Returns:
            How many items changed.
        """
        found = {item: self._matcher.by_id(item) for item in changes}
        by_id = {item: index for item, index in found.items() if index is not None}
        with self._lock:
            mask = self._mask.copy()
            mask[list(by_id.values())] = [changes[item] for item in by_id]
            changed = int((mask != self._mask).sum())
            mask.setflags(write=False)
            self._mask = mask
            self._changes |= {item: changes[item] for item in by_id}
        return changed
