"""MovieLens titles as a person would write them: `Matrix, The` and 1999 become `The Matrix (1999)`."""

import re
import unicodedata
from collections.abc import Sequence

# Only those that stand behind a comma in MovieLens; `L'` joins its noun without a space.
_ARTICLES = (
    "The|A|An|"  # English
    "La|Le|Les|L'|Un|Une|"  # French
    "Il|Lo|I|Gli|Uno|Una|"  # Italian
    "El|Los|Las|"  # Spanish
    "O|Os|As|Um|Uma|"  # Portuguese
    "Das|Der|Die|Ein|Eine|"  # German
    "De|Het|Den|Det|En|Ett|Et"  # Dutch, Scandinavian
)
_BEHIND = re.compile(rf"^(?P<name>.+), (?P<article>{_ARTICLES})$")
_ASIDE = re.compile(r"\(([^()]+)\)")
_YEAR = re.compile(r"\((\d{4})\)$")
# IMDb's marks behind the year: made for video, for television.
_MEDIUM = re.compile(r"\s*\((?:V|TV|TVM)\)$")


def readable_title(title: str, year: str = "") -> str:
    """Put articles in front, in every part of the title, and the year behind.

    Args:
        title: As MovieLens lists it, with or without its year.
        year: Release year, used where the title has none; anything but four digits is ignored.

    Returns:
        ``Il Postino (1994)``, ``The Blue Angel (Der Blaue Engel) (1930)``; ``unknown`` stays as it is.
    """
    text = _MEDIUM.sub("", " ".join(unicodedata.normalize("NFC", title).split()))
    if found := _YEAR.search(text):
        text, year = text[: found.start()].rstrip(), found[1]
    main, aside = text, ""
    if "(" in text and text.endswith(")"):
        cut = text.index("(")
        main, aside = text[:cut].rstrip(), " " + _ASIDE.sub(lambda m: f"({_forward(m[1])})", text[cut:])
    text = _forward(main) + aside
    return f"{text} ({year})" if re.fullmatch(r"\d{4}", year) else text


def _forward(name: str) -> str:
    """`Blaue Engel, Der` to `Der Blaue Engel`."""
    found = _BEHIND.match(name)
    if not found:
        return name
    article = found["article"]
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{found['name']}"


def unique_titles(titles: Sequence[str], weights: Sequence[int]) -> tuple[str, ...]:
    """Tell items of the same title apart by a number before the year: ``Chasing Amy [2] (1997)``.

    MovieLens-100K lists some films twice, under two ids with ratings of their own. They stay two items, so
    that figures compare with others' on this data set; the one with more interactions keeps the plain title.

    Args:
        titles: One per item.
        weights: Interactions per item; a tie is decided by the order.
    """
    taken = set(titles)
    seen: set[str] = set()
    result = list(titles)
    for index in sorted(range(len(titles)), key=lambda i: (-weights[i], i)):
        title, number = titles[index], 1
        while title in seen or (number > 1 and title in taken):
            number += 1
            title = _numbered(titles[index], number)
        seen.add(title)
        result[index] = title
    return tuple(result)


def _numbered(title: str, number: int) -> str:
    found = _YEAR.search(title)
    if not found:
        return f"{title} [{number}]"
    return f"{title[: found.start()].rstrip()} [{number}] {found[0]}"
