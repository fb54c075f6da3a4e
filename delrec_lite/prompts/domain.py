"""The words of a domain: what an item is called and what people do with it."""

import re
from dataclasses import dataclass

from delrec_lite.errors import ConfigError, nearest_name


@dataclass(frozen=True)
class Domain:
    """Words for one kind of item.

    Attributes:
        items: Plural noun: ``movies``.
        done: Past participle: ``watched``.
    """

    items: str
    done: str


DOMAINS = {
    "movie": Domain("movies", "watched"),
    "game": Domain("games", "played"),
    "item": Domain("products", "bought"),
    "artist": Domain("artists", "heard"),
}
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:[ '-][^\W_]+)*")
_MOST_LETTERS = 40


def words_of(domain: str, verb: str | None = None) -> Domain:
    """The words of a domain with words of its own, or of any other noun with a verb.

    Args:
        domain: One of ``DOMAINS``, or a noun: ``book``; one that ends in s is taken as its plural.
        verb: Past participle of what people do with it: ``read``; None: that of the domain.

    Raises:
        ConfigError: A noun without a verb, or no word.
    """
    for what, word in (("domain", domain), ("verb", verb)):
        if word is not None and not (_WORD.fullmatch(word) and len(word) <= _MOST_LETTERS):
            raise ConfigError(f"data.{what} {word[:_MOST_LETTERS]!r} is no word", "such as domain book and verb read")
    if domain in DOMAINS:
        return DOMAINS[domain] if verb is None else Domain(DOMAINS[domain].items, verb)
    if verb is None:
        nearest = nearest_name(domain, DOMAINS)
        meant = f"did you mean {nearest}? " if nearest else ""
        hint = f"{meant}one of {', '.join(DOMAINS)}, or say what people have done with it, such as verb read"
        raise ConfigError(f"data.domain {domain!r} has no verb of its own", hint)
    return Domain(_plural(domain), verb)


def _plural(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(x|z|ch|sh)$", noun) else f"{noun}s"
