"""`PromptFormat`: how an item is written in a prompt, whether it lists candidates, and how its answer is read."""

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
        title_tokens: Most tokens of a title; the rest is cut.
        verbalizer: Name of the verbalizer: ``title-mean``, ``letter`` or ``likelihood``.
        candidates: Whether the prompt lists the candidates, so that the answer is one of them.
        context: Most tokens of a whole prompt; None: no limit.
    """

    history: str = "items"
    title_tokens: int = 24
    verbalizer: str = "title-mean"
    candidates: bool = False
    context: int | None = None

    @cached_property
    def history_format(self) -> HistoryFormat:
        """How items are written in the prompt."""
        return HISTORIES[self.history]

    @cached_property
    def verbalizer_kind(self) -> VerbalizerKind:
        """How the answer is read."""
        return VERBALIZERS[self.verbalizer]

    @property
    def ranks_catalogue(self) -> bool:
        """Whether one evaluation scores every item of the catalogue."""
        return self.verbalizer_kind.item_rows and not self.candidates

    @property
    def item_tokens(self) -> bool:
        """Whether items are tokens of the vocabulary: in the history, or as output rows that score them."""
        return self.history_format.item_rows or self.verbalizer_kind.item_rows

    @property
    def written(self) -> bool:
        """Whether the prompt or the answer contains the items' titles."""
        return self.history_format.titles or self.verbalizer_kind.titles

    @property
    def only_item_rows(self) -> bool:
        """Whether histories are item rows and the whole catalogue is ranked; an ONNX file supports nothing else."""
        return self.history_format.item_rows and not self.history_format.titles and self.ranks_catalogue


def title_ids(titles: Sequence[str], encode: Encode, max_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Token ids of each title, at most ``max_tokens``."""
    return tuple(tuple(encode(TITLE_PREFIX + title)[:max_tokens]) for title in titles)
