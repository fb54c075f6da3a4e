"""MovieLens-100K in both layouts of its mirrors: GroupLens' files, and RecBole's atomic files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.columns import ItemRows
from delrec_lite.data.readers import Columns, Interactions, read_interactions, texts_of, titles_of
from delrec_lite.data.tables import Table, read_table
from delrec_lite.data.titles import readable_title
from delrec_lite.data.typed_columns import ColumnSpec, typed_column
from delrec_lite.errors import DataError, UsageError

_LOG = ("user_id", "item_id", "rating", "timestamp")
# u.item has no header: id, title, two release dates, address, then 19 genre flags (README of ml-100k).
_ITEM = ("item_id", "title", "release", "video_release", "url", *(f"genre{n}" for n in range(19)))
# The genres of the flags, in their order (u.genre of ml-100k).
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_YEAR = re.compile(r"\((\d{4})\)$")
# One title of the original is the word "unknown"; RecBole's copy misspells it.
_UNKNOWN = {"unkonwn": "unknown"}


def read_movielens(folder: Path) -> tuple[Interactions, dict[str, str]]:
    """The log and the readable title of each item id, equal for both layouts.

    Raises:
        DataError: The folder has neither layout, or a row is malformed.
    """
    if (folder / "u.data").is_file():
        return read_interactions(folder / "u.data", names=_LOG), _grouplens_titles(folder / "u.item")
    logs = sorted(folder.glob("*.inter"))
    if len(logs) == 1:
        return read_interactions(logs[0], Columns()), _recbole_titles(logs[0].with_suffix(".item"))
    raise DataError(f"{folder} holds neither u.data nor one .inter file", "pull the data set again")


def read_genres(folder: Path, columns: Sequence[str]) -> dict[str, str]:
    """The genres of each item id, ``Animation, Comedy``, equal for both layouts.

    Args:
        folder: As in ``read_movielens``.
        columns: Names of side text; ``genres`` is the only one.

    Raises:
        UsageError: Another name.
        DataError: The folder has neither layout, or a row is malformed.
    """
    if list(columns) != ["genres"]:
        raise UsageError(f"ml-100k has no side text {', '.join(columns)!r}", "take genres")
    if (folder / "u.item").is_file():
        table = read_table(folder / "u.item", _ITEM, _ITEM, delimiter="|", encoding="latin-1")
        flags = zip(*(table.texts(f"genre{n}") for n in range(len(_GENRES))), strict=True)
        chosen = [{name for name, flag in zip(_GENRES, row, strict=True) if flag == "1"} for row in flags]
    elif len(files := sorted(folder.glob("*.item"))) == 1:
        table = read_table(files[0], ("item_id", "class"))
        chosen = [set(genres.split()) for genres in table.texts("class")]
    else:
        raise DataError(f"{folder} holds neither u.item nor one .item file", "pull the data set again")
    genres = [", ".join(name for name in _GENRES if name in names and name != "unknown") for names in chosen]
    return texts_of(table.texts("item_id"), [genres])


def read_columns(folder: Path, specs: Sequence[ColumnSpec]) -> ItemRows:
    """The item columns: ``genres``, a list, and ``year`` of the title, a number.

    Args:
        folder: As in ``read_movielens``.
        specs: Of these two.

    Raises:
        UsageError: Another column.
        DataError: As in ``read_genres``.
    """
    return movie_columns("ml-100k", read_movielens(folder)[1], read_genres(folder, ["genres"]), specs)


def movie_columns(
    name: str, titles: Mapping[str, str], genres: Mapping[str, str], specs: Sequence[ColumnSpec]
) -> ItemRows:
    """The columns ``genres`` and ``year`` of a MovieLens data set.

    Args:
        name: Of the data set.
        titles: By item id; a year in parentheses is at their end.
        genres: By item id, separated by commas.
        specs: Of these two.

    Raises:
        UsageError: Another column.
    """
    if wrong := [spec.name for spec in specs if spec.name not in ("genres", "year")]:
        raise UsageError(f"{name} has no item column {wrong[0]!r}", "take genres, year")
    years = (_YEAR.search(title) for title in titles.values())
    cells: dict[str, list[Any]] = {
        "genres": [[name for name in genres[item].split(", ") if name] for item in titles],
        "year": [year[1] if year else "" for year in years],
    }
    return ItemRows(list(titles), tuple(typed_column(spec, cells[spec.name]) for spec in specs))


def _grouplens_titles(path: Path) -> dict[str, str]:
    table = read_table(path, ("item_id", "title", "release"), _ITEM, delimiter="|", encoding="latin-1")
    return _titles(table, table.texts("title"), [release[-4:] for release in table.texts("release")])


def _recbole_titles(path: Path) -> dict[str, str]:
    table = read_table(path, ("item_id", "movie_title", "release_year"))
    return _titles(table, [_UNKNOWN.get(t, t) for t in table.texts("movie_title")], table.texts("release_year"))


def _titles(table: Table, titles: list[str], years: list[str]) -> dict[str, str]:
    readable = [readable_title(title, year) for title, year in zip(titles, years, strict=True)]
    return titles_of(table, table.texts("item_id"), readable, BadRows())
