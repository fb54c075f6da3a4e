"""MovieLens titles as a person would write them: `Matrix, The` and 1999 become `The Matrix (1999)`."""

import re
import unicodedata
from collections.abc import Sequence

# The articles that follow a comma in MovieLens; `L'` is joined to its noun without a space.
_ARTICLES = (
    "The|A|An|"  # English
    "La|Le|Les|L'|Un|Une|"  # French
    "Il|Lo|I|Gli|Uno|Una|"  # Italian
    "El|Los|Las|"  # Spanish
    "O|Os|As|Um|Uma|"  # Portuguese
    "Das|Der|Die|Ein|Eine|"  # German
    "De|Het|Den|Det|En|Ett|Et"  # Dutch, Scandinavian
)
_TRAILING_ARTICLE = re.compile(rf"^(?P<name>.+), (?P<article>{_ARTICLES})$")
_PARENTHESES = re.compile(r"\(([^()]+)\)")
_YEAR = re.compile(r"\((\d{4})\)$")
# IMDb's marks after the year: made for video or television.
_MEDIUM = re.compile(r"\s*\((?:V|TV|TVM)\)$")


def readable_title(title: str, year: str = "") -> str:
    """Put articles first, in every part of the title, and the year last.

    Args:
        title: As MovieLens writes it, with or without its year.
        year: Release year, used if the title has none; anything but four digits is ignored.

    Returns:
        ``Il Postino (1994)``, ``The Blue Angel (Der Blaue Engel) (1930)``; ``unknown`` stays as it is.
    """
    text = _MEDIUM.sub("", " ".join(unicodedata.normalize("NFC", title).split()))
    if match := _YEAR.search(text):
        text, year = text[: match.start()].rstrip(), match[1]
    main, alternative = text, ""
    if "(" in text and text.endswith(")"):
        cut = text.index("(")
        main = text[:cut].rstrip()
        alternative = " " + _PARENTHESES.sub(lambda m: f"({_article_first(m[1])})", text[cut:])
    text = _article_first(main) + alternative
    return f"{text} ({year})" if re.fullmatch(r"\d{4}", year) else text


def _article_first(name: str) -> str:
    """`Blaue Engel, Der` to `Der Blaue Engel`."""
    match = _TRAILING_ARTICLE.match(name)
    if not match:
        return name
    article = match["article"]
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{match['name']}"


def unique_titles(titles: Sequence[str], weights: Sequence[int]) -> tuple[str, ...]:
    """Number items of the same title before the year: ``Chasing Amy [2] (1997)``.

    MovieLens-100K lists some films twice, under two ids with separate ratings. They stay two items, so that
    figures compare with published ones; the item with more interactions keeps the plain title.

    Args:
        titles: One per item.
        weights: Interactions per item; ties keep the order of the items.
    """
    existing = set(titles)
    assigned: set[str] = set()
    unique = list(titles)
    for index in sorted(range(len(titles)), key=lambda i: (-weights[i], i)):
        title, number = titles[index], 1
        while title in assigned or (number > 1 and title in existing):
            number += 1
            title = _numbered(titles[index], number)
        assigned.add(title)
        unique[index] = title
    return tuple(unique)


def _numbered(title: str, number: int) -> str:
    match = _YEAR.search(title)
    if not match:
        return f"{title} [{number}]"
    return f"{title[: match.start()].rstrip()} [{number}] {match[0]}"
