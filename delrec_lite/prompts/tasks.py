"""The tasks as token ids: what comes next, and temporal analysis. Used by training and by export, so by serving.

A history is item tokens, one vector an item, or titles. The instruction, the soft prompt and the question come first,
so that they are the same for every request (their state is computed once), every item boundary is a question, and a
history that is too long for the model loses its oldest items and nothing else.
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

# What a person would write of a sequential recommender's pattern.
WRITTEN = (
    " the latest {domain.items} count most, their order matters, and what others have {domain.done} after"
    " the same {domain.items} comes next."
)
# What only a form that lists candidates reads.
LISTING = ("dot", "listed", "answer")
PIECES = ("next_prefix", "temporal_prefix", "after", "hidden", "again", "separator", *LISTING)


@dataclass(frozen=True)
class Prompts:
    """Both tasks compiled for one domain, tokenizer and vocabulary.

    Attributes:
        vocabulary: The id space.
        next_prefix: Before a history; the answer is read at each of its items (stage 1 RPS, stage 2, serving).
        temporal_prefix: The same for temporal analysis (stage 1 TA).
        after: Between what came before a hidden item and the item that follows it.
        hidden: Before the hidden item; the answer is read at its last token.
        again: Between the example and the question.
        text: The pieces as a person reads them.
        format: How items stand in it and how the answer is read.
        titles: Token ids of each item's title, where they stand anywhere.
        separator: Behind a title in a list.
        dot: Behind a candidate's label.
        listed: Before the candidates.
        answer: Behind them; the answer is read at its last token.
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
        """Token ids that name the candidates in the list, in order; empty: they have no names."""
        return self.added.get(self.format.verbalizer_kind.labels, ())

    def served(self, renumbered: Callable[[Iterable[int]], Iterable[int]] = tuple) -> "Prompts":
        """The same without what serving never reads: temporal analysis, and pieces that the form does not have.

        Args:
            renumbered: Gives the token ids that stand for others in another vocabulary.
        """
        prompt_format = self.format
        kept = (
            "next_prefix",
            *(("separator",) if prompt_format.written else ()),
            *(LISTING if prompt_format.candidates else ()),
        )
        pieces: dict[str, Any] = {name: tuple(renumbered(getattr(self, name))) for name in kept}
        pieces |= {name: () for name in PIECES if name not in kept}
        titles = tuple(tuple(renumbered(title)) for title in self.titles)
        added = {name: tuple(renumbered(piece)) for name, piece in self.added.items()}
        return replace(self, titles=titles, added=added, **pieces)

    def used(self) -> set[int]:
        """Every token id that stands in a piece or a title."""
        pieces = (*(getattr(self, name) for name in PIECES), *self.added.values())
        return {token for piece in (*pieces, *self.titles) for token in piece}

    def item(self, index: int) -> tuple[int, ...]:
        """Token ids of one item as it stands in a list."""
        history = self.format.history_format
        title = self.titles[index] if history.titles else ()
        return history.tokens(self.vocabulary.item_base + int(index), title, self.separator)

    def items(self, indices: Sequence[int]) -> list[int]:
        """Token ids of items."""
        return [token for i in indices for token in self.item(i)]

    def history(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids of items, and the place of each item's last token, where what comes next is read."""
        ids: list[int] = []
        ends = []
        for i in indices:
            ids += self.item(i)
            ends.append(len(ids) - 1)
        return ids, ends

    def newest(self, history: Ints, most: int, taken: int = 0) -> Ints:
        """The newest items of a history that the prompt holds.

        Args:
            history: Item indices, oldest first.
            most: Items.
            taken: Tokens that stand behind the history.

        Raises:
            ConfigError: Not even one fits.
        """
        kept = history[-most:]
        return kept[self.dropped([len(self.item(i)) for i in kept.tolist()], len(self.next_prefix) + taken) :]

    def dropped(self, sizes: Sequence[int], taken: int, least: int = 1) -> int:
        """How many of the oldest items must go so that the others and ``taken`` tokens fit.

        Args:
            sizes: Tokens of each item, oldest first.
            taken: Tokens of all else.
            least: Items that stay.

        Raises:
            ConfigError: Not even those fit.
        """
        if self.format.context is None:
            return 0
        over = sum(sizes) + taken - self.format.context
        n = 0
        while over > 0 and n < len(sizes) - least:
            over -= sizes[n]
            n += 1
        if over > 0:
            raise ConfigError(
                f"a prompt of {self.format.context} tokens has no room for a history",
                "fewer soft tokens or candidates, shorter titles (model.title_tokens), or a larger model.max_tokens",
            )
        return n

    def question(self, ids: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """What stands before the answer: the history's token ids, and the candidates where the form lists them.

        Raises:
            ConfigError: More candidates than labels to name them.
        """
        if not self.format.candidates:
            return [*ids]
        return [*ids, *self.listing([self.item(item) for item in candidates])]

    def listing(self, candidates: Sequence[Sequence[Any]]) -> list[Any]:
        """What stands behind a history in a form that lists candidates, each given as it stands in a list.

        Raises:
            ConfigError: More candidates than labels to name them.
        """
        labels = self.labels
        if labels and len(candidates) > len(labels):
            raise ConfigError(
                f"{len(candidates)} candidates, and {len(labels)} {self.format.verbalizer_kind.labels} to name them",
                "ask for fewer (data.candidates), or take another model.verbalizer",
            )
        out: list[Any] = [*self.listed]
        for place, item in enumerate(candidates):
            if labels:
                out += [labels[place], *self.dot]
            out += item
        return [*out, *self.answer]

    def temporal(self, sequence: Sequence[int], taken: int = 0) -> tuple[list[int], list[int], list[int]]:
        """Temporal analysis of one sequence (DELRec, section 4.2), without its prefix.

        The example: items 1 and 2, the third hidden, the fourth given as what followed; then the third is told.
        The question: the rest, its second-last item hidden and its last given. A rest that does not fit loses its
        oldest items.

        Args:
            sequence: Item indices, oldest first, at least 8.
            taken: Tokens that stand behind it.

        Returns:
            Token ids; the positions in them where an answer is read; the hidden items' indices, as many.
        """
        first, second, third, fourth, *rest = sequence
        fixed = len(self.temporal_prefix) + len(self.items([first, second, third, fourth])) + len(self.again)
        fixed += 2 * (len(self.after) + len(self.hidden)) + taken
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
    """Turn words into token ids.

    Args:
        domain: The words.
        vocabulary: The id space; its soft tokens stand where the pattern is named.
        encode: Text to token ids, adding nothing and reading special tokens' names as plain text.
        bos: The base model's first token, where it wants one.
        pattern: ``soft``, or in its place ``words`` that a person wrote or ``none`` at all (the paper's ablations).
        prompt_format: How items stand in the prompt and how the answer is read.
        titles: The catalogue's, for a form that writes them.

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
    """Token ids of the written sentence, whose rows can be the soft prompt's first values."""
    return encode(WRITTEN.format(domain=domain))


def zero_shot_prompt(domain: Domain, titles: Sequence[str]) -> str:
    """The question in plain words, for a model that has learned nothing of the data.

    Args:
        domain: The words.
        titles: The history, oldest first.
    """
    listed = "\n".join(titles)
    return f"{domain.items.capitalize()} that someone {domain.done}, in order:\n{listed}\nNext one:\n"
