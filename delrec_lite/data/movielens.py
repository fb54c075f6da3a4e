"""MovieLens-100K in both layouts it is delivered in: GroupLens' own, and RecBole's atomic files."""

from pathlib import Path

from delrec_lite.data.readers import Columns, Interactions, add_title, read_interactions, read_rows
from delrec_lite.data.titles import readable_title
from delrec_lite.errors import DataError

_LOG = ("user_id", "item_id", "rating", "timestamp")
# u.item has no header: id, title, two release dates, address, then 19 genre flags (README of ml-100k).
_ITEM = ("item_id", "title", "release", "video_release", "url", *(f"genre{n}" for n in range(19)))
# One row of the original has no title but this word, and RecBole's copy misspells it.
_UNKNOWN = {"unkonwn": "unknown"}


def read_movielens(folder: Path) -> tuple[Interactions, dict[str, str]]:
    """The log and the readable title of each item id, equal for both layouts.

    Raises:
        DataError: Neither layout is there, or a row does not read.
    """
    if (folder / "u.data").is_file():
        return read_interactions(folder / "u.data", names=_LOG), _grouplens_titles(folder / "u.item")
    logs = sorted(folder.glob("*.inter"))
    if len(logs) == 1:
        return read_interactions(logs[0], Columns()), _recbole_titles(logs[0].with_suffix(".item"))
    raise DataError(f"{folder} holds neither u.data nor one .inter file", "pull the data set again")


def _grouplens_titles(path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    rows = read_rows(path, ("item_id", "title", "release"), _ITEM, delimiter="|", encoding="latin-1")
    for row, (item, title, release) in rows:
        add_title(titles, item, readable_title(title, release[-4:]), path, row)
    return titles


def _recbole_titles(path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    for row, (item, title, year) in read_rows(path, ("item_id", "movie_title", "release_year")):
        add_title(titles, item, readable_title(_UNKNOWN.get(title, title), year), path, row)
    return titles
