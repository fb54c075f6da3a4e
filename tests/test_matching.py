"""Titles match as people type them."""

import pytest

from delrec_lite.errors import UsageError
from delrec_lite.runtime.matching import Matcher

TITLES = [
    "The Matrix (1999)",
    "Star Wars (1977)",
    "Sabrina (1954)",
    "Sabrina (1995)",
    "Les Misérables (1995)",
    "Seven (Se7en) (1995)",
    "Chasing Amy (1997)",
    "Chasing Amy (1997) [2]",
    "The Postman (1997)",
    "Il Postino (1994)",
    "Devil's Own, The (1997)",
    "2001: A Space Odyssey (1968)",
    "A (1990)",
    "Blade Runner 2049 (2017)",
    "Брат 2 (2000)",
    "Сват 2 (2001)",
    "千と千尋の神隠し (2001)",
]
POPULARITY = [9, 9, 3, 8, 1, 5, 6, 7, 2, 4, 1, 1, 1, 3, 9, 1, 1]


@pytest.fixture
def matcher():
    return Matcher([str(n) for n in range(len(TITLES))], TITLES, POPULARITY)


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("The Matrix (1999)", "The Matrix (1999)"),
        ("the matrix", "The Matrix (1999)"),
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("MATRIX", "The Matrix (1999)"),
        ("star  wars!", "Star Wars (1977)"),
        ("Star Warz", None),
        ("Les Miserables", "Les Misérables (1995)"),
        ("Seven", "Seven (Se7en) (1995)"),
        ("se7en", "Seven (Se7en) (1995)"),
        ("Sabrina", "Sabrina (1995)"),
        ("sabrina (1954)", "Sabrina (1954)"),
        ("devils own", "Devil's Own, The (1997)"),
        ("2001 a space odysey", "2001: A Space Odyssey (1968)"),
        ("id:9", "Il Postino (1994)"),
        ("Chasing Amy", "Chasing Amy (1997) [2]"),
        ("Devil\u2019s Own", "Devil's Own, The (1997)"),
        ("star wars 1977", "Star Wars (1977)"),
        ("sabrina, 1954", "Sabrina (1954)"),
        ("star wars 1984", None),
        ("blade runner 2049", "Blade Runner 2049 (2017)"),
        ("сват 2", "Сват 2 (2001)"),
        ("千と千尋の神隠し", "千と千尋の神隠し (2001)"),
    ],
)
def test_a_title_is_found(matcher, query, title):
    if title is None:
        with pytest.raises(UsageError, match="no item is called"):
            matcher.find(query)
    else:
        assert matcher.find(query).title == title


def test_a_wrong_year_is_not_another_film(matcher):
    with pytest.raises(UsageError):
        matcher.find("Sabrina (1973)")


def test_a_match_lists_the_other_items_of_the_same_name(matcher):
    assert matcher.find("Sabrina").others == ("Sabrina (1954)",)
    assert matcher.find("Sabrina (1954)").others == ()


def test_the_error_for_an_unknown_title_names_the_nearest_title(matcher):
    with pytest.raises(UsageError) as error:
        matcher.find("Star Trek Wars")
    assert "'Star Wars (1977)'" in error.value.hint
    assert matcher.nearest("postmn")[0] == "The Postman (1997)"
