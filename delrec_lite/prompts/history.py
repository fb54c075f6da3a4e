"""History formats: how an item is written in a prompt, as tokens. A recipe names one (``model.history``)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delrec_lite.data.types import Floats
from delrec_lite.errors import ConfigError
from delrec_lite.registry import Registry


@dataclass(frozen=True)
class HistoryFormat(ABC):
    """How an item is written in a prompt: in the history, and among candidates where the prompt lists them.

    Attributes:
        name: Its name in recipes and bundles.
        item_rows: An item is one row of the extended vocabulary, which is trained together with the adapter.
        titles: An item is its title's words; a new item is given as words too, not as a vector.
        around: In a runtime that knows nothing of this project, the text before and after each title.
        explained: The same in words, for a bundle's README.
    """

    name: str
    item_rows: bool = False
    titles: bool = False
    around: tuple[str, str] = ("", "")
    explained: str = "nothing stands between the titles"

    @abstractmethod
    def tokens(self, row: int | Floats | None, title: Sequence[int], separator: Sequence[int]) -> tuple[Any, ...]:
        """The tokens of an item in a list.

        Args:
            row: Token id of the item's row, or the vector of a new item; None: it has neither.
            title: Token ids of its title, where this format reads titles; else empty.
            separator: Token ids of the text after a title in a list.
        """


PACKAGE = "delrec_lite.prompts.histories"
HISTORIES: Registry[HistoryFormat] = Registry("history format", HistoryFormat, PACKAGE, PACKAGE, ConfigError)


def register_history(history: HistoryFormat) -> HistoryFormat:
    """Register a history format in this process.

    Raises:
        ConfigError: A built-in format has this name.
    """
    return HISTORIES.register(history)
