"""The form of a prompt: how an item is written in it, whether it lists candidates, and how its answer is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delrec_lite.errors import ConfigError

Encode = Callable[[str], list[int]]

# A title's tokens as they stand inside a sentence: with the space before it.
TITLE_PREFIX = " "
# Behind a title in a list; no title holds a line's end.
SEPARATOR = "\n"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class PromptFormat:
    """How items and answers are written.

    Attributes:
        history: ``items``, one vector each, or ``titles``, their words.
        title_tokens: Where a title's words end, in tokens.
        verbalizer: ``title-mean``, ``letter`` or ``likelihood``; see ``llm/verbalizers.py``.
        candidates: The prompt lists them, so the answer is one of them and never another of the catalogue.
        context: Most tokens of a whole prompt; None: no bound.
    """

    history: str = "items"
    title_tokens: int = 24
    verbalizer: str = "title-mean"
    candidates: bool = False
    context: int | None = None

    @property
    def ranks_catalogue(self) -> bool:
        """Whether one reading scores every item of the catalogue."""
        return self.verbalizer == "title-mean" and not self.candidates

    @property
    def item_tokens(self) -> bool:
        """Whether items are tokens of the vocabulary: read as such, or scored by a row each."""
        return self.history == "items" or self.verbalizer == "title-mean"

    @property
    def written(self) -> bool:
        """Whether items' words stand anywhere: in the prompt, or in the answer."""
        return self.history == "titles" or self.verbalizer == "likelihood"


def title_ids(titles: Sequence[str], encode: Encode, most: int) -> tuple[tuple[int, ...], ...]:
    """Token ids of each title, at most ``most`` of them."""
    return tuple(tuple(encode(TITLE_PREFIX + title)[:most]) for title in titles)


def letter_ids(encode: Encode) -> tuple[int, ...]:
    """Token ids of the letters, with the space before them, or without it where that is no token.

    Raises:
        ConfigError: A letter is not one token either way.
    """
    for before in (TITLE_PREFIX, ""):
        found = [encode(before + letter) for letter in LETTERS]
        if all(len(ids) == 1 for ids in found) and len({ids[0] for ids in found}) == len(LETTERS):
            return tuple(ids[0] for ids in found)
    raise ConfigError(
        "the base model's tokenizer has no single token for each of the letters A to Z",
        "set model.verbalizer to title-mean or likelihood",
    )
