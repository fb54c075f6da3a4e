"""The form of a prompt: how an item is written in it, whether it lists candidates, and how its answer is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from delrec_lite.prompts.history import HISTORIES, HistoryFormat
from delrec_lite.prompts.verbalizer import VERBALIZERS, VerbalizerKind
from delrec_lite.prompts.words import TITLE_PREFIX, Encode


@dataclass(frozen=True)
class PromptFormat:
    """How items and answers are written.

    Attributes:
        history: Name of the history format: ``items``, one vector each, or ``titles``, their words.
        title_tokens: Where a title's words end, in tokens.
        verbalizer: Name of the verbalizer: ``title-mean``, ``letter`` or ``likelihood``.
        candidates: The prompt lists them, so the answer is one of them and never another of the catalogue.
        context: Most tokens of a whole prompt; None: no bound.
    """

    history: str = "items"
    title_tokens: int = 24
    verbalizer: str = "title-mean"
    candidates: bool = False
    context: int | None = None

    @cached_property
    def history_format(self) -> HistoryFormat:
        """How items stand in the prompt."""
        return HISTORIES[self.history]

    @cached_property
    def verbalizer_kind(self) -> VerbalizerKind:
        """How the answer is read."""
        return VERBALIZERS[self.verbalizer]

    @property
    def ranks_catalogue(self) -> bool:
        """Whether one reading scores every item of the catalogue."""
        return self.verbalizer_kind.item_rows and not self.candidates

    @property
    def item_tokens(self) -> bool:
        """Whether items are tokens of the vocabulary: read as such, or scored by a row each."""
        return self.history_format.item_rows or self.verbalizer_kind.item_rows

    @property
    def written(self) -> bool:
        """Whether items' words stand anywhere: in the prompt, or in the answer."""
        return self.history_format.titles or self.verbalizer_kind.titles

    @property
    def only_item_rows(self) -> bool:
        """Whether a request is rows of items and its answer is the whole catalogue: all that an ONNX file can hold."""
        return self.history_format.item_rows and not self.history_format.titles and self.ranks_catalogue


def title_ids(titles: Sequence[str], encode: Encode, most: int) -> tuple[tuple[int, ...], ...]:
    """Token ids of each title, at most ``most`` of them."""
    return tuple(tuple(encode(TITLE_PREFIX + title)[:most]) for title in titles)
