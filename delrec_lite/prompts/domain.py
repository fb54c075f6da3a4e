"""The words of a domain: what an item is called and what people do with it."""

from dataclasses import dataclass


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
