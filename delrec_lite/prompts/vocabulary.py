"""One id space for text, soft prompt and items: the base model's tokens, then k soft tokens, then the catalogue."""

from dataclasses import dataclass

# The first layer whose input a deep prompt changes: llama.cpp's control vectors can be added to the outputs of the
# second layer and the later ones.
FIRST_DEEP = 2


@dataclass(frozen=True)
class Vocabulary:
    """The extended vocabulary; training embeds these ids, export writes their rows, serving sends them to the engine.

    Attributes:
        text: Rows of the base model's token embedding.
        soft: Soft-prompt vectors, k.
        items: Items of the catalogue.
    """

    text: int
    soft: int
    items: int

    def __len__(self) -> int:
        return self.text + self.soft + self.items

    @property
    def soft_ids(self) -> tuple[int, ...]:
        """Ids of the soft tokens, in order."""
        return tuple(range(self.text, self.text + self.soft))

    @property
    def item_base(self) -> int:
        """Id of item 0; item i is ``item_base + i``."""
        return self.text + self.soft
