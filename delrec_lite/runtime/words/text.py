"""How a text is split into words, which of them carry no meaning, and which of them "not" negates."""

import re
import unicodedata
from dataclasses import dataclass

# Words of a request that are read, the first ones.
MOST = 64
# Chinese and Japanese write no spaces: there a character is a word.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\W_]+")
_POSSESSIVE = re.compile("['\u2019]s\\b")
_NOT = re.compile("n['\u2019]t\\b")
# A negation reaches to the end of its clause.
_CLAUSE = re.compile(r"[,.;:!?()|/\n]|\bbut\b|\binstead\b")
_NEGATIONS = frozenset(["not", "no", "non", "without", "except", "excluding", "never", "neither", "nor", "avoid"])
_EMPTY = frozenset(
    [
        "a",
        "about",
        "am",
        "an",
        "and",
        "any",
        "anything",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "could",
        "do",
        "does",
        "for",
        "from",
        "give",
        "good",
        "has",
        "have",
        "i",
        "in",
        "is",
        "it",
        "its",
        "like",
        "looking",
        "love",
        "me",
        "more",
        "my",
        "of",
        "on",
        "or",
        "please",
        "recommend",
        "show",
        "similar",
        "so",
        "some",
        "something",
        "that",
        "the",
        "them",
        "these",
        "this",
        "those",
        "to",
        "too",
        "very",
        "want",
        "we",
        "what",
        "which",
        "with",
        "would",
        "you",
        "book",
        "books",
        "film",
        "films",
        "game",
        "games",
        "item",
        "items",
        "movie",
        "movies",
        "product",
        "products",
        "song",
        "songs",
    ]
)


@dataclass(frozen=True)
class Asked:
    """A word of a request.

    Attributes:
        word: Lower case, without accents.
        negated: Items that it fits are unwanted.
    """

    word: str
    negated: bool


def words_in(text: str) -> list[str]:
    """The words of a text, in order: lower case, without accents, punctuation and possessive s."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return _WORD.findall(_POSSESSIVE.sub("", plain))


def asked_in(text: str) -> list[Asked]:
    """The words of a request that carry a meaning, each once, as it is used last.

    What follows "not", "no", "without" and the like is negated, up to the next punctuation mark or "but".
    """
    asked: dict[str, bool] = {}
    for clause in _CLAUSE.split(_NOT.sub(" not", text.casefold())):
        negated = False
        for word in words_in(clause):
            if word in _NEGATIONS:
                negated = True
            elif word not in _EMPTY:
                asked[word] = negated
    return [Asked(word, negated) for word, negated in list(asked.items())[:MOST]]
