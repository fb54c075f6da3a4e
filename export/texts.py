"""The texts of a bundle: the prompt's words for other runtimes, and a text for every item's token."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from delrec_lite.data.types import Catalog
from delrec_lite.export.stock import stock_text
from delrec_lite.export.tokenizer_file import speller, token_names, token_text
from delrec_lite.export.weights import ServedModel


@dataclass(frozen=True)
class Texts:
    """The texts of a bundle.

    Attributes:
        prompt: The ``text`` of ``prompt.json``.
        items: The text of every item's token, all distinct.
        whole_titles: A title in a text becomes its item's token; otherwise it is read as words.
    """

    prompt: dict[str, Any]
    items: list[str]
    whole_titles: bool


def texts_of(served: ServedModel, catalog: Catalog) -> Texts:
    """The texts of a bundle; its tokenizer file must exist."""
    begin = token_text(served.tokenizer, served.begin_token)
    prompt = stock_text(served.prompts, served.tokenizer, begin)
    # In a history of titles a title is read as words, so no token may match the title.
    whole_titles = not served.prompts.format.history_format.titles
    stock, spell = (prompt["stock"], None) if whole_titles else ("", speller(served.tokenizer))
    items = token_texts(catalog.titles, catalog.ids, token_names(served.tokenizer), stock, spell)
    return Texts(prompt, items, whole_titles)


def token_texts(
    titles: Sequence[str],
    ids: Sequence[str],
    reserved: Collection[str] = (),
    prompt: str = "",
    spell: Callable[[str], str] | None = None,
) -> list[str]:
    """A distinct token text for every item; none looks like a control token.

    A vocabulary with two equal texts aborts the process that loads it, so a title that is a token of the base model
    (MovieLens-100K has a film called ``unknown``) gets its id appended. So does a title that occurs in the prompt's
    words, because its token would replace them.

    Args:
        titles: Of the catalogue.
        ids: Ids of its items.
        reserved: The other tokens of the vocabulary.
        prompt: Words in which no title may occur.
        spell: Gives a text's form in the vocabulary; None: unchanged.
    """
    used = set(reserved)
    texts = []
    for title, item_id in zip(titles, ids, strict=True):
        text = title.replace("<|", "< |") or item_id
        if (spell(text) if spell else text) in used or text in prompt:
            text = f"{text} [{item_id}]"
        used.add(spell(text) if spell else text)
        texts.append(text)
    return texts
