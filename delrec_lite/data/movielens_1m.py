"""MovieLens-1M in GroupLens' files: `ratings.dat` and `movies.dat`, fields separated by `::`."""

from collections.abc import Sequence
from pathlib import Path

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.columns import ItemRows
from delrec_lite.data.movielens import movie_columns
from delrec_lite.data.readers import Interactions, read_interactions, texts_of, titles_of
from delrec_lite.data.tables import Layout, Table, read_table
from delrec_lite.data.titles import readable_title
from delrec_lite.data.typed_columns import ColumnSpec
from delrec_lite.errors import UsageError

_LOG = ("user_id", "item_id", "rating", "timestamp")
_ITEM = ("item_id", "title", "genres")


def read_movielens(folder: Path) -> tuple[Interactions, dict[str, str]]:
    """The log and the readable title of each item id.

    Raises:
        DataError: A file is missing, or a row is malformed.
    """
    log = read_interactions(folder / "ratings.dat", names=_LOG, layout=Layout("::"))
    table = _movies(folder)
    titles = [readable_title(title, "") for title in table.texts("title")]
    return log, titles_of(table, table.texts("item_id"), titles, BadRows())


def read_genres(folder: Path, columns: Sequence[str]) -> dict[str, str]:
    """The genres of each item id: ``Animation, Comedy``.

    Args:
        folder: As in ``read_movielens``.
        columns: Names of side text; ``genres`` is the only one.

    Raises:
        UsageError: Another name.
        DataError: As in ``read_movielens``.
    """
    if list(columns) != ["genres"]:
        raise UsageError(f"ml-1m has no side text {', '.join(columns)!r}", "take genres")
    table = _movies(folder)
    return texts_of(table.texts("item_id"), [[genres.replace("|", ", ") for genres in table.texts("genres")]])


def read_columns(folder: Path, specs: Sequence[ColumnSpec]) -> ItemRows:
    """The item columns: ``genres``, a list, and ``year`` of the title, a number.

    Args:
        folder: As in ``read_movielens``.
        specs: Of these two.

    Raises:
        UsageError: Another column.
        DataError: As in ``read_movielens``.
    """
    return movie_columns("ml-1m", read_movielens(folder)[1], read_genres(folder, ["genres"]), specs)


def _movies(folder: Path) -> Table:
    return read_table(folder / "movies.dat", _ITEM, _ITEM, delimiter="::", encoding="latin-1")
