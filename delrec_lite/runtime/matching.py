"""Finds the item that a typed title means; case, articles, accents and a missing year may differ."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from delrec_lite.errors import UsageError

_ARTICLE = re.compile(r"^(?:the|a|an|la|le|les|il|el|los|las|das|der|die|l)\s+(?=\S)")
_TRAILING = re.compile(r"^(.*), (?:the|a|an|la|le|les|l'|il|el|los|las|das|der|die)$", re.IGNORECASE)
_YEAR = re.compile(r"\s*\((\d{4})\)(?:\s*\[\d+\])?\s*$")
_BARE_YEAR = re.compile(r"^(.*\S)[\s,]+(\d{4})$")
_APOSTROPHE = re.compile("['`\u2018\u2019]")
_ASIDE = re.compile(r"\s*\([^()]*\)")
# Lowest similarity at which a title is taken for another; 100 is the same text.
MIN_SIMILARITY = 93.0
# How many texts are remembered with what was found for them; one request names at most 5,000.
SEARCHED = 8192


def normal(title: str) -> str:
    """Lower case, no accents, no punctuation, no article in front."""
    title = _TRAILING.sub(r"\1", title.strip())
    # Only combining marks are removed: a title in another script must not shrink to its digits.
    plain = "".join(c for c in unicodedata.normalize("NFKD", title) if not unicodedata.combining(c))
    words = re.sub(r"[\W_]+", " ", _APOSTROPHE.sub("", plain.casefold()).replace("&", " and ")).strip()
    return _ARTICLE.sub("", words)


def split_year(title: str) -> tuple[str, str]:
    """A title and its year, which may be empty."""
    match = _YEAR.search(title)
    return (title[: match.start()], match.group(1)) if match else (title, "")


@dataclass(frozen=True)
class Match:
    """The item that a typed title means.

    Attributes:
        given: As typed.
        item: Index in the catalogue.
        title: As the catalogue has it.
        others: Titles of other items that the same words could mean.
    """

    given: str
    item: int
    title: str
    others: tuple[str, ...] = ()


class Matcher:
    """Finds items by title or by ``id:<item id>``.

    Args:
        ids: Item ids.
        titles: Titles, all distinct.
        popularity: Among items of the same name the most popular is taken.
    """

    def __init__(self, ids: Sequence[str], titles: Sequence[str], popularity: Sequence[int]) -> None:
        self._ids = dict(zip(ids, range(len(ids)), strict=True))
        self._titles = titles
        self._exact = dict(zip(titles, range(len(titles)), strict=True))
        self._popularity = popularity
        # A server's steps look titles up before the request is answered, and stale titles come again and again.
        self._search = lru_cache(SEARCHED)(self._search_titles)

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[str, int]]]:
        """Normal names -> (year, item), the most popular first; a name in parentheses counts too."""
        names: dict[str, list[tuple[str, int]]] = {}
        for item in sorted(range(len(self._titles)), key=lambda i: (-self._popularity[i], i)):
            name, year = split_year(self._titles[item])
            asides = re.findall(r"\(([^()]*)\)", name)
            for spelled in {normal(n) for n in (name, _ASIDE.sub("", name), *asides)} - {""}:
                names.setdefault(spelled, []).append((year, item))
        return names

    @cached_property
    def _names(self) -> list[str]:
        return list(self._by_name)

    def find(self, text: str) -> Match:
        """The item that a text names.

        Raises:
            UsageError: No title is similar enough; names the nearest titles.
        """
        match = self.look_up(text)
        if match is None:
            raise self.unknown(text)
        return match

    def look_up(self, text: str) -> Match | None:
        """The item that a text names; None if no title is similar enough."""
        if text.startswith("id:"):
            item = self._ids.get(text[3:])
            return None if item is None else Match(text, item, self._titles[item])
        if text in self._exact:
            return Match(text, self._exact[text], text)
        return self._search(text)

    def exact(self, text: str) -> int | None:
        """The item that an id, ``id:<item id>`` or a whole title names; similar titles name none."""
        for item_id in (text, text.removeprefix("id:")):
            if item_id in self._ids:
                return self._ids[item_id]
        return self._exact.get(text)

    def by_id(self, item_id: str) -> int | None:
        """The item that has an id."""
        return self._ids.get(item_id)

    def _search_titles(self, text: str) -> Match | None:
        """The item whose title is most like a text."""
        if not text.strip():
            return None
        name, year = split_year(text)
        match = self._choose(normal(name), year)
        bare = _BARE_YEAR.match(text.strip())
        if match is None and bare:  # "toy story 1995", but "blade runner 2049" was a name
            match = self._choose(normal(bare.group(1)), bare.group(2))
        if match is None:
            match = self._near(normal(name), year)
        if match is None:
            return None
        item, others = match
        return Match(text, item, self._titles[item], tuple(self._titles[o] for o in others))

    def text_of_id(self, number: int, where: str) -> str:
        """The text that names the item whose id is a number.

        Raises:
            UsageError: No id of the catalogue is a number, or the number is also the title of another item.
        """
        text = str(number)
        item = self._ids.get(text)
        if item is None and not self._has_numbers:
            raise UsageError(
                f"{where} holds the number {text}, and no id of this catalogue is a number",
                f"give titles, or ids such as 'id:{next(iter(self._ids), '')}'",
            )
        if self._exact.get(text, item) != item:
            raise UsageError(
                f"{where} holds the number {text}, which is also the title of another item",
                f"give the id as 'id:{text}', or the title as text",
            )
        return f"id:{text}"

    @cached_property
    def _has_numbers(self) -> bool:
        return any(item_id.isdecimal() for item_id in self._ids)

    def search(self, words: str, k: int) -> list[Match]:
        """The items whose titles look most like some words; the most popular ones where there are no words."""
        if words.strip():
            return [self.find(title) for title in self.nearest(words, k)]
        popular = sorted(range(len(self._titles)), key=lambda item: (-self._popularity[item], item))[:k]
        return [self.find(self._titles[item]) for item in popular]

    def reason(self, text: str) -> str:
        """Why a text that was not found names no item."""
        if text.startswith("id:"):
            return f"no item has the id {text[3:]!r}"
        return f"no item is called {text!r}" if text.strip() else "a title is empty"

    def unknown(self, text: str) -> UsageError:
        """The error for a text that was not found; names the nearest titles."""
        if text.startswith("id:"):
            hint = "ids are those of the data set"
        elif not text.strip():
            hint = "give a title, or id:<item id>"
        else:
            nearest = ", ".join(repr(title) for title in self.nearest(text))
            hint = f"nearest: {nearest}; to use it as a new item: --allow-new, allow_new"
        return UsageError(self.reason(text), hint)

    def nearest(self, text: str, k: int = 3) -> list[str]:
        """Titles that look most like ``text``."""
        from rapidfuzz import fuzz, process

        query = normal(split_year(text)[0])
        matches = process.extract(query, self._names, scorer=fuzz.WRatio, limit=4 * k)
        # A short name inside a long one scores as high as the long name itself: prefer similar lengths.
        matches.sort(key=lambda match: -(match[1] + fuzz.ratio(query, match[0])))
        items = dict.fromkeys(self._by_name[name][0][1] for name, _, _ in matches)
        return [self._titles[item] for item in list(items)[:k]]

    def _choose(self, name: str, year: str) -> tuple[int, list[int]] | None:
        entries = self._by_name.get(name)
        if not entries:
            return None
        if year:
            dated = [item for y, item in entries if y == year]
            return (dated[0], []) if dated else None
        return entries[0][1], [item for _, item in entries[1:]]

    def _near(self, name: str, year: str) -> tuple[int, list[int]] | None:
        from rapidfuzz import fuzz, process

        for candidate, _, _ in process.extract(
            name, self._names, scorer=fuzz.ratio, score_cutoff=MIN_SIMILARITY, limit=3
        ):
            match = self._choose(candidate, year)
            if match:
                return match
        return None
