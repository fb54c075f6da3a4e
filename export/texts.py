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
    """Words of a bundle.

    Attributes:
        prompt: The prompt's words as ``prompt.json`` has them.
        items: Of every item's token, all distinct.
        whole_titles: A title in a text is its item's token; else it is read by its words.
    """

    prompt: dict[str, Any]
    items: list[str]
    whole_titles: bool


def texts_of(served: ServedModel, catalog: Catalog) -> Texts:
    """The texts of a bundle whose tokenizer is written."""
    begin = token_text(served.tokenizer, served.begin_token)
    prompt = stock_text(served.prompts, served.tokenizer, begin)
    # In a history of titles a title is its words, so no token may be matched with the whole of it.
    whole = not served.prompts.format.history_format.titles
    apart = (prompt["stock"], None) if whole else ("", speller(served.tokenizer))
    items = token_texts(catalog.titles, catalog.ids, token_names(served.tokenizer), *apart)
    return Texts(prompt, items, whole)


def token_texts(
    titles: Sequence[str],
    ids: Sequence[str],
    taken: Collection[str] = (),
    prompt: str = "",
    spelt: Callable[[str], str] | None = None,
) -> list[str]:
    """A distinct token text for every item; none can be taken for a control token.

    Two equal texts in a vocabulary end the process that loads it, so a title that is a word of the base model
    (MovieLens-100K lists a film called ``unknown``) carries its id; so does one that stands in the prompt's own
    words, which it would cut in two.

    Args:
        titles: The catalogue's.
        ids: Its items' ids.
        taken: The vocabulary's other tokens.
        prompt: Words that no title may cut.
        spelt: How the vocabulary writes a text; None: as it is.
    """
    seen = set(taken)
    texts = []
    for title, item_id in zip(titles, ids, strict=True):
        text = title.replace("<|", "< |") or item_id
        if (spelt(text) if spelt else text) in seen or text in prompt:
            text = f"{text} [{item_id}]"
        seen.add(spelt(text) if spelt else text)
        texts.append(text)
    return texts
