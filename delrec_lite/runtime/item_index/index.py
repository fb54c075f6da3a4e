"""`ItemIndex`: the item index of a bundle, its two files, and coarse scores of the whole catalogue from it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.item_index.fit import Choice, Maps
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS, INDEX_MAPS, MANIFEST, REMEDY

# Up to so many bytes the vectors are copied; more stay mapped (see ``runtime.gguf.rows``).
MAX_COPIED = 1 << 27


@dataclass(frozen=True)
class ItemIndex:
    """Short vectors of all items, and how to use them.

    Attributes:
        short: float32 ``[items, rank]``.
        maps: What shortens rows and states.
        candidates: How many of the best items are scored exactly.
    """

    short: Floats
    maps: Maps
    candidates: int

    @staticmethod
    def is_in(bundle: Bundle) -> bool:
        """Whether a bundle has an item index."""
        return INDEX in bundle.manifest["files"]

    @classmethod
    def load(cls, bundle: Bundle) -> "ItemIndex":
        """Open a bundle's index.

        Raises:
            BundleError: Its files cannot be read, or do not fit the catalogue.
        """
        files, facts = bundle.manifest["files"], bundle.manifest["model"].get(INDEX_FACTS)
        if INDEX_MAPS not in files or not isinstance(facts, dict):
            raise BundleError(f"{bundle.folder / MANIFEST} has an incomplete item index", REMEDY)
        rank, candidates = _count(facts.get("rank")), _count(facts.get("candidates"))
        hidden, items = _count(bundle.manifest["model"].get("hidden")), len(bundle.items.ids)
        if not (rank and candidates and hidden and isinstance(facts.get("recall"), int | float)):
            raise BundleError(f"{bundle.folder / MANIFEST}: {INDEX_FACTS} is {facts!r:.80}", REMEDY)
        maps = _read(bundle.folder / INDEX_MAPS, (hidden, 2 * rank + 1), mapped=False)
        short = _read(bundle.folder / INDEX, (items, rank), mapped=items * rank * 4 > MAX_COPIED)
        return cls(short, Maps(maps[:, :rank], maps[:, rank:-1], maps[:, -1]), candidates)

    def scores(self, states: Floats) -> Floats:
        """Coarse scores of all items: float32 ``[states, items]``.

        Args:
            states: Hidden states, float32 ``[states, hidden]``.
        """
        queries: Floats = states @ self.maps.states
        scores: Floats = queries @ self.short.T
        scores += (states @ self.maps.mean)[:, None]
        return scores

    def scores_of(self, state: Floats, items: Ints) -> Floats:
        """Coarse scores of some items: float32 ``[n]``."""
        scores: Floats = self.short[items] @ (state @ self.maps.states) + state @ self.maps.mean
        return scores


def write_index(folder: Path, short: Any, maps: Maps, choice: Choice) -> dict[str, Any]:
    """Write an index's two files into the folder of a bundle to be.

    Returns:
        What the manifest's ``model`` says of it.
    """
    np.save(folder / INDEX, np.ascontiguousarray(short, np.float32), allow_pickle=False)
    parts = (maps.items, maps.states, maps.mean[:, None])
    np.save(folder / INDEX_MAPS, np.concatenate(parts, axis=1).astype(np.float32), allow_pickle=False)
    return {INDEX_FACTS: asdict(choice)}


def extend_index(bundle: Bundle, rows: Floats, folder: Path) -> None:
    """Write the vectors of a bundle's index with those of more items behind them; the maps stay as they are.

    Args:
        bundle: With an index.
        rows: By which the new items are scored, float32 ``[new, hidden]``.
        folder: Of the bundle to be.

    Raises:
        BundleError: As ``ItemIndex.load``.
    """
    index = ItemIndex.load(bundle)
    longer = np.lib.format.open_memmap(
        folder / INDEX, "w+", np.float32, (len(index.short) + len(rows), index.short.shape[1])
    )
    longer[: len(index.short)] = index.short
    longer[len(index.short) :] = index.maps.shortened(rows)
    longer.flush()


def _count(value: Any) -> int:
    """A whole number above 0; 0 for anything else."""
    return value if isinstance(value, int) and value > 0 else 0


def _read(path: Path, shape: tuple[int, int], mapped: bool) -> Floats:
    try:
        array = np.load(path, "r" if mapped else None, allow_pickle=False)
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(f"{array.dtype} {array.shape}, not float32 {shape}")
        values = np.asarray(array)
        if not np.isfinite(values @ np.ones(shape[1], np.float32)).all():
            raise ValueError("it holds what is no number")
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
    return values
