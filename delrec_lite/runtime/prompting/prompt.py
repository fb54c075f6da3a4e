"""Reads the compiled prompt of a bundle: `prompt.json` and, where the prompt contains titles, their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.history import HISTORIES
from delrec_lite.prompts.tasks import LISTING, Prompts
from delrec_lite.prompts.verbalizer import VERBALIZERS
from delrec_lite.prompts.vocabulary import Vocabulary

FILE = "prompt.json"
# Token ids of the catalogue's titles: int32 ``[items, longest]``, ended by -1.
TITLES = "title-tokens.npy"
# Pieces that only some formats have.
PIECES = ("separator", *LISTING)


@dataclass(frozen=True)
class Prompt:
    """The prompt that training compiled.

    Attributes:
        prefix: Token ids before every history.
        item_token_base: Token id of item 0, where items are tokens.
        max_history: Items of a history that are read, the newest.
        soft_tokens: How many tokens of the prefix are the soft prompt.
        title_prefix: Text before a title when it is tokenised.
        input_norm: Norm of an item's input vector.
        scale: Of the verbalizer.
        format: How items are written and how the answer is read; in a bundle of an older version: item tokens.
        pieces: Token ids of its other pieces and of the verbalizer's pieces, by name.
    """

    prefix: list[int]
    item_token_base: int
    max_history: int
    soft_tokens: int
    title_prefix: str
    input_norm: float
    scale: float
    format: PromptFormat = PromptFormat()
    pieces: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def text_tokens(self) -> int:
        """Text tokens of the vocabulary; those of the soft prompt follow them."""
        return self.item_token_base - self.soft_tokens

    def compiled(self, items: int, titles: Sequence[tuple[int, ...]] = ()) -> Prompts:
        """The same prompt in the form that training uses.

        Args:
            items: Of the trained catalogue.
            titles: Token ids of their titles, where the prompt contains them.
        """
        return Prompts(
            vocabulary=Vocabulary(self.text_tokens, self.soft_tokens, items),
            next_prefix=tuple(self.prefix),
            temporal_prefix=(),
            after=(),
            hidden=(),
            again=(),
            text={},
            format=self.format,
            titles=titles,
            added={name: self.pieces[name] for name in self.format.verbalizer_kind.pieces},
            **{name: self.pieces[name] for name in PIECES if name in self.pieces},
        )


# Largest number that float32 computes with; what is above it, or no number, is no scale of vectors.
MOST = 1e30


def parse_prompt(content: dict[str, Any]) -> Prompt:
    """Read ``prompt.json``.

    Raises:
        ValueError, KeyError, TypeError: The content is not what export writes.
    """
    new, pieces = content["new_item"], content.get("pieces", {})
    prompt_format = PromptFormat(
        history=str(content.get("history", PromptFormat.history)),
        title_tokens=int(content.get("title_tokens", PromptFormat.title_tokens)),
        verbalizer=str(content.get("verbalizer", PromptFormat.verbalizer)),
        candidates=bool(content.get("candidates", False)),
        context=None if content.get("context") is None else int(content["context"]),
    )
    HISTORIES.check(prompt_format.history)
    VERBALIZERS.check(prompt_format.verbalizer)
    names = (*(name for name in PIECES if name in pieces), *prompt_format.verbalizer_kind.pieces)
    prompt = Prompt(
        prefix=[int(i) for i in content["prefix"]],
        item_token_base=int(content["item_token_base"]),
        max_history=int(content["max_history"]),
        soft_tokens=int(content["soft_tokens"]),
        title_prefix=str(new["title_prefix"]),
        input_norm=float(new["input_norm"]),
        scale=float(new["scale"]),
        format=prompt_format,
        pieces={name: tuple(int(i) for i in pieces[name]) for name in names},
    )
    if prompt.max_history < 1 or prompt.item_token_base < 1:
        raise ValueError("max_history and item_token_base must be above 0")
    if not all(abs(number) < MOST for number in (prompt.input_norm, prompt.scale)):
        raise ValueError("input_norm and scale must be numbers")
    if prompt_format.title_tokens < 1 or (
        prompt_format.context is not None and prompt_format.context <= len(prompt.prefix)
    ):
        raise ValueError("title_tokens must be above 0 and context above the prefix")
    if not all(0 <= token < prompt.text_tokens for piece in prompt.pieces.values() for token in piece):
        raise ValueError("a piece is outside the vocabulary")
    return prompt


class TitleTokens(Sequence[tuple[int, ...]]):
    """The titles' tokens as one array, because a million titles would be as many Python objects.

    Args:
        rows: int32 ``[items, longest]``, ended by -1.
    """

    def __init__(self, rows: npt.NDArray[np.int32]) -> None:
        self._rows = rows
        self._lengths = (rows >= 0).sum(1)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> "TitleTokens": ...
    def __getitem__(self, index: int | slice) -> "tuple[int, ...] | TitleTokens":
        if isinstance(index, slice):
            return TitleTokens(self._rows[index])
        return tuple(self._rows[index, : self._lengths[index]].tolist())


def write_titles(folder: Path, titles: Sequence[Sequence[int]]) -> None:
    """Write the titles' tokens; none is empty."""
    rows = np.full((len(titles), max(map(len, titles))), -1, np.int32)
    for row, title in zip(rows, titles, strict=True):
        row[: len(title)] = title
    np.save(folder / TITLES, rows, allow_pickle=False)


def read_titles(folder: Path, items: int, tokens: int) -> TitleTokens:
    """The titles' tokens.

    Args:
        folder: The bundle.
        items: Of the trained catalogue.
        tokens: Text tokens of the vocabulary.

    Raises:
        OSError, ValueError, EOFError: The file cannot be read or does not fit.
    """
    rows = np.load(folder / TITLES, allow_pickle=False)
    if rows.dtype != np.int32 or rows.ndim != 2 or rows.shape[0] != items or not rows.size:
        raise ValueError(f"{rows.dtype} {rows.shape} for {items} items")
    filled = rows >= 0
    well_formed = (filled[:, 1:] <= filled[:, :-1]).all() and filled[:, 0].all()  # no token follows a -1
    if not well_formed or rows.max() >= tokens:
        raise ValueError("a title is empty or outside the vocabulary")
    return TitleTokens(rows)
