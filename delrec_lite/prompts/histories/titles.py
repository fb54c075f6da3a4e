"""Titles: an item is its title's words, a line each."""

from collections.abc import Sequence
from typing import Any

from delrec_lite.data.types import Floats
from delrec_lite.prompts.history import HistoryFormat
from delrec_lite.prompts.words import SEPARATOR, TITLE_PREFIX


class Titles(HistoryFormat):
    """See ``HistoryFormat``."""

    def tokens(self, row: int | Floats | None, title: Sequence[int], separator: Sequence[int]) -> tuple[Any, ...]:
        """See ``HistoryFormat.tokens``."""
        return (*title, *separator)


KIND = Titles(
    name="titles",
    titles=True,
    around=(TITLE_PREFIX, SEPARATOR),
    explained="a title is read by its words, with a space before it and a line's end behind it",
)
