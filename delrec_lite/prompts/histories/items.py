"""Items: each is one vector, a row of the vocabulary."""

from collections.abc import Sequence
from typing import Any

from delrec_lite.data.types import Floats
from delrec_lite.prompts.history import HistoryFormat


class Items(HistoryFormat):
    """See ``HistoryFormat``."""

    def tokens(self, row: int | Floats | None, title: Sequence[int], separator: Sequence[int]) -> tuple[Any, ...]:
        """See ``HistoryFormat.tokens``."""
        return (row,)


KIND = Items(name="items", item_rows=True)
