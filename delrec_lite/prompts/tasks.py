"""The tasks as token ids: next item, and temporal analysis. Used by training and export, so by serving too.

A history is item tokens, one vector per item, or titles. The instruction, the soft prompt and the question come first:
they are the same for every request, so their state is computed once; the next item can be predicted after every item;
and a history that is too long for the model loses only its oldest items.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from delrec_lite.data.types import Ints
from delrec_lite.errors import ConfigError
from delrec_lite.prompts.domain import Domain
from delrec_lite.prompts.format import PromptFormat, title_ids
from delrec_lite.prompts.verbalizer import Pieces
from delrec_lite.prompts.vocabulary import Vocabulary
from delrec_lite.prompts.words import SEPARATOR, TITLE_PREFIX, Encode

__all__ = ["TITLE_PREFIX", "Encode", "PromptFormat", "Prompts", "compile_prompts", "start_words", "zero_shot_prompt"]

# A hand-written description of a sequential recommender's pattern, instead of the soft prompt.
WRITTEN = (
    " the latest {domain.items} count most, their order matters, and what others have {domain.done} after"
    " the same {domain.items} comes next."
)
# Pieces of a format that lists candidates.
LISTING = ("dot", "listed", "answer")
PIECES = ("next_prefix", "temporal_prefix", "after", "hidden", "again", "separator", *LISTING)


@dataclass(frozen=True)
class Prompts:
    """Both tasks compiled for one domain, tokenizer and vocabulary.

    Attributes:
        vocabulary: The id space.
        next_prefix: Before a history; the logits at each of its items are read (stage 1 RPS, stage 2, serving).
        temporal_prefix: The same for temporal analysis (stage 1 TA).
        after: Between what came before a hidden item and the item that follows it.
        hidden: Before the hidden item; the logits at its last token are read.
        again: Between the example and the question.
        text: The pieces as text.
        format: How items are written and how the answer is read.
        titles: Token ids of each item's title, where the format contains titles.
        separator: After a title in a list.
        dot: After a candidate's label.
        listed: Before the candidates.
        answer: After them; the logits at its last token are read.
        added: Token ids of the verbalizer's own pieces, by name.
    """

    vocabulary: Vocabulary
    next_prefix: tuple[int, ...]
    temporal_prefix: tuple[int, ...]
    after: tuple[int, ...]
    hidden: tuple[int, ...]
    again: tuple[int, ...]
    text: dict[str, str]
    format: PromptFormat = PromptFormat()
    titles: Sequence[tuple[int, ...]] = ()
    separator: tuple[int, ...] = ()
    dot: tuple[int, ...] = ()
    listed: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    added: Pieces = field(default_factory=dict)

    @property
    def labels(self) -> tuple[int, ...]:
        """Token ids that label the candidates in the list, in order; empty: they have no labels."""
        return self.added.get(self.format.verbalizer_kind.labels, ())

    def served(self, renumbered: Callable[[Iterable[int]], Iterable[int]] = tuple) -> "Prompts":
        """The same without the parts that serving never reads: temporal analysis, and pieces of other formats.

        Args:
            renumbered: Maps token ids to those of another vocabulary.
        """
        prompt_format = self.format
        names = (
            "next_prefix",
            *(("separator",) if prompt_format.written else ()),
            *(LISTING if prompt_format.candidates else ()),
        )
        pieces: dict[str, Any] = {name: tuple(renumbered(getattr(self, name))) for name in names}
        pieces |= {name: () for name in PIECES if name not in names}
        titles = tuple(tuple(renumbered(title)) for title in self.titles)
        added = {name: tuple(renumbered(piece)) for name, piece in self.added.items()}
        return replace(self, titles=titles, added=added, **pieces)

    def used(self) -> set[int]:
        """Every token id of the pieces and titles."""
        pieces = (*(getattr(self, name) for name in PIECES), *self.added.values())
        return {token for piece in (*pieces, *self.titles) for token in piece}

    def item(self, index: int) -> tuple[int, ...]:
        """Token ids of one item in a list."""
        history = self.format.history_format
        title = self.titles[index] if history.titles else ()
        return history.tokens(self.vocabulary.item_base + int(index), title, self.separator)

    def items(self, indices: Sequence[int]) -> list[int]:
        """Token ids of items."""
        return [token for i in indices for token in self.item(i)]

    def history(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids of items, and the position of each item's last token, at which the next item is predicted."""
        ids: list[int] = []
        ends = []
        for i in indices:
            ids += self.item(i)
            ends.append(len(ids) - 1)
        return ids, ends

    def newest(self, history: Ints, max_items: int, reserved: int = 0) -> Ints:
        """The newest items of a history that fit into the prompt.

        Args:
            history: Item indices, oldest first.
            max_items: Most items.
            reserved: Tokens that follow the history.

        Raises:
            ConfigError: Not even one fits.
        """
        recent = history[-max_items:]
        sizes = [len(self.item(i)) for i in recent.tolist()]
        return recent[self.dropped(sizes, len(self.next_prefix) + reserved) :]

    def dropped(self, sizes: Sequence[int], reserved: int, min_items: int = 1) -> int:
        """How many of the oldest items are dropped so that the others and ``reserved`` tokens fit.

        Args:
            sizes: Tokens of each item, oldest first.
            reserved: Tokens of everything else.
            min_items: Items that are never dropped.

        Raises:
            ConfigError: Not even ``min_items`` fit.
        """
        if self.format.context is None:
            return 0
        excess = sum(sizes) + reserved - self.format.context
        count = 0
        while excess > 0 and count < len(sizes) - min_items:
            excess -= sizes[count]
            count += 1
        if excess > 0:
            raise ConfigError(
                f"a prompt of {self.format.context} tokens has no room for a history",
                "use fewer soft tokens or candidates, shorter titles (model.title_tokens) or more model.max_tokens",
            )
        return count

    def question(self, ids: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The tokens before the answer: the history's, and the candidates' where the format lists them.

        Raises:
            ConfigError: More candidates than labels.
        """
        if not self.format.candidates:
            return [*ids]
        return [*ids, *self.listing([self.item(item) for item in candidates])]

    def listing(self, candidates: Sequence[Sequence[Any]]) -> list[Any]:
        """The tokens after a history in a format that lists candidates, each given by its tokens in a list.

        Raises:
            ConfigError: More candidates than labels.
        """
        labels = self.labels
        if labels and len(candidates) > len(labels):
            raise ConfigError(
                f"there are {len(candidates)} candidates and only {len(labels)} labels for them "
                f"({self.format.verbalizer_kind.labels})",
                "use fewer (data.candidates), or another model.verbalizer",
            )
        tokens: list[Any] = [*self.listed]
        for index, item in enumerate(candidates):
            if labels:
                tokens += [labels[index], *self.dot]
            tokens += item
        return [*tokens, *self.answer]

    def temporal(self, sequence: Sequence[int], reserved: int = 0) -> tuple[list[int], list[int], list[int]]:
        """Temporal analysis of one sequence (DELRec, section 4.2), without its prefix.

        The example: items 1 and 2, item 3 hidden, item 4 shown as what followed; then item 3 is shown.
        The question: the other items, the second-last hidden and the last shown. If they do not fit, their oldest are
        dropped.

        Args:
            sequence: Item indices, oldest first, at least 8.
            reserved: Tokens that follow it.

        Returns:
            Token ids; the positions in them at which an answer is predicted; the index of the hidden item at each.
        """
        first, second, third, fourth, *rest = sequence
        fixed = len(self.temporal_prefix) + len(self.items([first, second, third, fourth])) + len(self.again)
        fixed += 2 * (len(self.after) + len(self.hidden)) + reserved
        rest = rest[self.dropped([len(self.item(i)) for i in (*rest[:-2], rest[-1])], fixed, 2) :]
        ids = [*self.items([first, second]), *self.after, *self.items([fourth]), *self.hidden]
        reads = [len(ids) - 1]
        ids += [*self.items([third]), *self.again, *self.items(rest[:-2]), *self.after]
        ids += [*self.items(rest[-1:]), *self.hidden]
        reads.append(len(ids) - 1)
        return ids, reads, [int(third), int(rest[-2])]


def compile_prompts(
    domain: Domain,
    vocabulary: Vocabulary,
    encode: Encode,
    bos: int | None,
    pattern: str = "soft",
    prompt_format: PromptFormat = PromptFormat(),  # noqa: B008 - frozen
    titles: Sequence[str] = (),
) -> Prompts:
    """Compile both tasks to token ids.

    Args:
        domain: The words.
        vocabulary: The id space; its soft tokens replace the pattern's description.
        encode: Text to token ids; it adds no special tokens and reads their names as plain text.
        bos: The base model's first token, where it needs one.
        pattern: ``soft``; or ``words``, a written sentence instead; or ``none`` (the paper's ablations).
        prompt_format: How items are written and how the answer is read.
        titles: The catalogue's, for a format that contains them.

    Raises:
        ConfigError: The tokenizer cannot write the verbalizer's pieces.
    """
    text = {
        "instruction": f"The pattern of {domain.items}:",
        "next": f" What is {domain.done} next?",
        "temporal": f" What was {domain.done} between?",
        "after": " (hidden),",
        "hidden": ": hidden is",
        "again": ".",
    }
    listed, answer = f" One of these {domain.items}:{SEPARATOR}", "Answer:"
    if prompt_format.candidates:
        text |= {"listed": listed, "answer": answer}
    head = [] if bos is None else [bos]
    if pattern == "soft":
        head += encode(text["instruction"]) + list(vocabulary.soft_ids)
    elif pattern == "words":
        text["instruction"] += WRITTEN.format(domain=domain)
        head += encode(text["instruction"])
    else:
        text["instruction"] = ""
    return Prompts(
        vocabulary=vocabulary,
        next_prefix=(*head, *encode(text["next"])),
        temporal_prefix=(*head, *encode(text["temporal"])),
        after=tuple(encode(text["after"])),
        hidden=tuple(encode(text["hidden"])),
        again=tuple(encode(text["again"])),
        text=text,
        format=prompt_format,
        titles=title_ids(titles, encode, prompt_format.title_tokens) if prompt_format.written else (),
        separator=tuple(encode(SEPARATOR)),
        dot=tuple(encode(".")),
        listed=tuple(encode(listed)),
        answer=tuple(encode(answer)),
        added=prompt_format.verbalizer_kind.compile(encode),
    )


def start_words(domain: Domain, encode: Encode) -> list[int]:
    """Token ids of the written sentence, whose rows can initialise the soft prompt."""
    return encode(WRITTEN.format(domain=domain))


def zero_shot_prompt(domain: Domain, titles: Sequence[str]) -> str:
    """The question in plain words, for a model that was not trained on the data.

    Args:
        domain: The words.
        titles: The history, oldest first.
    """
    listed = "\n".join(titles)
    return f"{domain.items.capitalize()} that someone {domain.done}, in order:\n{listed}\nNext one:\n"
