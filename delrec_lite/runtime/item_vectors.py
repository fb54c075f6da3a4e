"""Vectors that say how alike two items are: the rows by which the model reads them, centred, at length 1."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np

from delrec_lite.data.types import Floats, evenly
from delrec_lite.errors import UsageError
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.new_items import NewItems
from delrec_lite.runtime.resolving import Item

# Items whose mean is taken for that of the whole catalogue.
CENTRE = 2048


class ItemVectors:
    """Unit vectors of items; their products are cosines.

    All rows of a model have a common direction (the mean cosine of two titles' rows is 0.84 on ML-100K), so the mean
    row of the catalogue is subtracted first.

    Args:
        engine: Gives the rows of the catalogue.
        new_items: Give those of other items.
        items: Size of the catalogue.
    """

    def __init__(self, engine: Engine, new_items: NewItems, items: int) -> None:
        self._engine, self._new_items, self._items = engine, new_items, items

    def units(self, items: Sequence[Item]) -> Floats:
        """Unit vectors of some items: float32 ``[n, hidden]``; zeros for an item that is just average.

        Raises:
            UsageError: The engine of another package gives no vectors.
        """
        known = [item for item in items if isinstance(item, int)]
        rows = np.empty((len(items), self._centre.shape[0]), np.float32)
        rows[[isinstance(item, int) for item in items]] = self._rows(known)
        for n, item in enumerate(items):
            if not isinstance(item, int):
                rows[n] = self._new_items.vectors(item)[0]
        rows -= self._centre
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        return units

    def preload(self) -> None:
        """Read now what diversity reads later."""
        with suppress(UsageError):
            _ = self._centre

    @cached_property
    def _centre(self) -> Floats:
        centre: Floats = self._rows(evenly(self._items, CENTRE)).mean(0)
        return centre

    def _rows(self, items: Sequence[int]) -> Floats:
        if not hasattr(self._engine, "item_vectors"):  # an engine of another package, made before there was diversity
            raise UsageError("this engine gives no vectors of items, which diversity needs", "leave diversity at 0")
        return self._engine.item_vectors(items)
