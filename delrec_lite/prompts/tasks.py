"""The tasks as token ids: what comes next, and temporal analysis. Used by training and by export, so by serving.

Histories are item tokens: one vector an item. The instruction, the soft prompt and the question come first, so
that they are the same for every request (their state is computed once) and every item boundary is a question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delrec_lite.prompts.domain import Domain
from delrec_lite.prompts.vocabulary import Vocabulary

Encode = Callable[[str], list[int]]

# A title's tokens as they stand inside a sentence: with the space before it.
TITLE_PREFIX = " "
# What a person would write of a sequential recommender's pattern.
WRITTEN = (
    " the latest {domain.items} count most, their order matters, and what others have {domain.done} after"
    " the same {domain.items} comes next."
)


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
    """

    vocabulary: Vocabulary
    next_prefix: tuple[int, ...]
    temporal_prefix: tuple[int, ...]
    after: tuple[int, ...]
    hidden: tuple[int, ...]
    again: tuple[int, ...]
    text: dict[str, str]

    def items(self, indices: Sequence[int]) -> list[int]:
        """Token ids of items."""
        return [self.vocabulary.item_base + int(i) for i in indices]

    def temporal(self, sequence: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Temporal analysis of one sequence (DELRec, section 4.2), without its prefix.

        The example: items 1 and 2, the third hidden, the fourth given as what followed; then the third is told.
        The question: the rest, its second-last item hidden and its last given.

        Args:
            sequence: Item indices, oldest first, at least 8.

        Returns:
            Token ids; the positions in them where an answer is read; the hidden items' indices, as many.
        """
        first, second, third, fourth, *rest = sequence
        ids = [*self.items([first, second]), *self.after, *self.items([fourth]), *self.hidden]
        reads = [len(ids) - 1]
        ids += [*self.items([third]), *self.again, *self.items(rest[:-2]), *self.after]
        ids += [*self.items(rest[-1:]), *self.hidden]
        reads.append(len(ids) - 1)
        return ids, reads, [int(third), int(rest[-2])]


def compile_prompts(
    domain: Domain, vocabulary: Vocabulary, encode: Encode, bos: int | None, pattern: str = "soft"
) -> Prompts:
    """Turn words into token ids.

    Args:
        domain: The words.
        vocabulary: The id space; its soft tokens stand where the pattern is named.
        encode: Text to token ids, adding nothing and reading special tokens' names as plain text.
        bos: The base model's first token, where it wants one.
        pattern: ``soft``, or in its place ``words`` that a person wrote or ``none`` at all (the paper's ablations).
    """
    text = {
        "instruction": f"The pattern of {domain.items}:",
        "next": f" What is {domain.done} next?",
        "temporal": f" What was {domain.done} between?",
        "after": " (hidden),",
        "hidden": ": hidden is",
        "again": ".",
    }
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
    )


def zero_shot_prompt(domain: Domain, titles: Sequence[str]) -> str:
    """The question in plain words, for a model that has learned nothing of the data.

    Args:
        domain: The words.
        titles: The history, oldest first.
    """
    listed = "\n".join(titles)
    return f"{domain.items.capitalize()} that someone {domain.done}, in order:\n{listed}\nNext one:\n"
