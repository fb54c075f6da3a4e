"""Brings any input into one order, by DuckDB in bounded memory: every user once, with the whole history."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from delrec_lite.console import Console
from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.packages import arrow
from delrec_lite.data.times import TimesSoFar
from delrec_lite.data.values import MISSING
from delrec_lite.errors import DataError
from delrec_lite.scoring.chunks import Chunk, chunks, kinds_of
from delrec_lite.scoring.columns import Names, Shape, shape_of
from delrec_lite.scoring.inputs import InputFile
from delrec_lite.scoring.scorer import why_bad

# Items of a history that are kept in order, more than any model reads; each older one is kept once, to be left out.
NEWEST = 10_000
ROWS = 1 << 12


@dataclass(frozen=True)
class User:
    """A user to score.

    Attributes:
        id: As the input has it.
        items: Known item ids, oldest first; none for a user whose history is empty.
        unknown: How many items of the history the catalogue lacks.
    """

    id: str
    items: list[str]
    unknown: int


class Users:
    """The users of an input; what is malformed is set aside: ``check`` refuses it, ``bad_batches`` gives it.

    Args:
        files: The input.
        names: Of its columns.
        known: Item ids of the catalogue.
        connection: Of ``database``.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """

    def __init__(self, files: Sequence[InputFile], names: Names, known: Collection[str], connection: Any) -> None:
        self._files, self._known, self._con = files, known, connection
        kinds = [kinds_of(file) for file in files]
        self._shape = _shape(files, kinds, names)
        self._times = TimesSoFar()
        self.id_type = _id_type([of_file[self._shape.user] for of_file in kinds])
        """The Arrow type that ids of users have in what is written."""
        items = "VARCHAR[]" if self._shape.listed else "VARCHAR"
        connection.execute(
            f"CREATE TABLE good (id VARCHAR, items {items}, t DOUBLE, n BIGINT, file INTEGER, row BIGINT)"
        )
        connection.execute("CREATE TABLE bad (file INTEGER, row BIGINT, id VARCHAR, reason VARCHAR)")

    def read(self, console: Console) -> None:
        """Read all files.

        Raises:
            DataError: One is damaged, or has values that are no ids, lists or times.
        """
        with console.progress("files of users", len(self._files)) as tick:
            for number, file in enumerate(self._files):
                for chunk in chunks(file, self._shape):
                    self._insert(number, chunk)
                tick()
        for note in self._times.notes(self._shape.time):
            console.say(note)

    def __iter__(self) -> Iterator[User]:
        """The users, in the order of their ids; those who cannot be scored are set aside."""
        order = "id" if self.id_type == arrow().string() else "try_cast(id AS HUGEINT)"
        time = "n" if self._times.is_exact else "t"
        query = f"SELECT id, items, file, row FROM good ORDER BY {order}, {time}, file, row"
        batches = self._con.sql(query).to_arrow_reader(ROWS)
        rows = chain.from_iterable(
            zip(*(column.to_pylist() for column in batch.columns), strict=True) for batch in batches
        )
        found: list[tuple[int, int, str, str]] = []
        for user, of_user in groupby(rows, itemgetter(0)):
            _, first, file, row = next(of_user)
            if self._shape.listed:
                given: list[str] = first
                found += [(file, row, user, "its user comes a second time") for _, _, file, row in of_user]
            else:
                given = _shortened(chain([first], (item for _, item, _, _ in of_user)))
            items = [item for item in given if item in self._known]
            if reason := why_bad(self._shape.values, given, bool(items)):
                found.append((file, row, user, reason))
            else:
                yield User(user, items, len(given) - len(items))
            if len(found) >= ROWS:
                self._set_aside(found)
                found = []
        self._set_aside(found)

    def check(self, bad: BadRows) -> int:
        """How many rows were set aside until now, in all files.

        Raises:
            DataError: There are some, and they are refused; names the first ones.
        """
        total = 0
        for number, count in self._con.execute("SELECT file, count(*) FROM bad GROUP BY file ORDER BY file").fetchall():
            query = f"SELECT row, reason FROM bad WHERE file = {number} ORDER BY row, reason LIMIT {SHOWN}"
            bad.add(self._files[number].path, count, self._con.execute(query).fetchall())
            total += count
        return total

    def bad_batches(self) -> Iterator[Any]:
        """The rows that were set aside, in order: Arrow tables with ``file``, ``row``, ``user_id`` and ``reason``."""
        pa = arrow()
        paths = pa.array([str(file.path) for file in self._files], pa.string())
        for batch in self._con.sql("SELECT * FROM bad ORDER BY file, row, reason").to_arrow_reader(ROWS):
            columns = [paths.take(batch.column(0)), *batch.columns[1:]]
            yield pa.table(columns, ("file", "row", "user_id", "reason"))

    def _insert(self, number: int, chunk: Chunk) -> None:
        self._set_aside([(number, row, "", reason) for row, reason in chunk.malformed])
        if chunk.times is not None:
            self._times.add(chunk.times)
        blank = "items IS NULL" if self._shape.listed else "items = ''"  # spreadsheets write blank rows
        self._con.register("chunk", chunk.table)
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE checked AS SELECT id, items, t, n, {number} AS file, row,"
            f" {self._problem()} AS reason FROM chunk WHERE NOT (id = '' AND {blank})"
        )
        self._con.unregister("chunk")
        self._con.execute("INSERT INTO good SELECT id, items, t, n, file, row FROM checked WHERE reason IS NULL")
        self._con.execute("INSERT INTO bad SELECT file, row, id, reason FROM checked WHERE reason IS NOT NULL")

    def _problem(self) -> str:
        """What is wrong with a row, in SQL: a text, or NULL."""
        words = ", ".join(map(_quoted, sorted(MISSING - {""})))
        columns = [("id", self._shape.user)]
        if not self._shape.listed:
            columns.append(("items", self._shape.values))
        cases = []
        for column, name in columns:
            cases.append(f"WHEN {column} = '' THEN {_quoted(f'{name} is empty')}")
            named = f"{_quoted(f'{name} is ')} || '''' || {column} || ''', a missing value'"
            cases.append(f"WHEN {column} IN ({words}) THEN {named}")
        if self._shape.listed:
            cases.append(f"WHEN items IS NULL THEN {_quoted(why_bad(self._shape.values, None, False))}")
        return f"CASE {' '.join(cases)} ELSE wrong END"

    def _set_aside(self, rows: Sequence[tuple[int, int, str, str]]) -> None:
        if not rows:
            return
        pa = arrow()
        kinds = (pa.int32(), pa.int64(), pa.string(), pa.string())
        columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
        with self._con.cursor() as beside:  # the query that is being read goes on
            beside.register("found", pa.table(columns, ("file", "row", "id", "reason")))
            beside.execute("INSERT INTO bad SELECT * FROM found")


def _id_type(kinds: Sequence[Any]) -> Any:
    """Whole numbers where all files have some and one type holds them, else text."""
    pa = arrow()
    kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    if not all(map(pa.types.is_integer, kinds)):
        return pa.string()
    if pa.uint64() not in kinds:
        return pa.int64()
    return pa.uint64() if all(map(pa.types.is_unsigned_integer, kinds)) else pa.string()


def _shape(files: Sequence[InputFile], kinds: Sequence[dict[str, Any]], names: Names) -> Shape:
    shapes = [shape_of(file.path, of_file, names) for file, of_file in zip(files, kinds, strict=True)]
    for file, shape in zip(files, shapes, strict=True):
        if shape != shapes[0]:
            other, first = (", ".join(of_file.names) for of_file in (shape, shapes[0]))
            raise DataError(f"{file.path} is read by {other}, but {files[0].path} by {first}", "give files of one kind")
    return shapes[0]


def _shortened(items: Iterable[str]) -> list[str]:
    """The newest items in order, and before them each older one once: a user may have millions of interactions."""
    kept: list[str] = []
    older: dict[str, None] = {}
    for item in items:
        kept.append(item)
        if len(kept) == 2 * NEWEST:
            older.update(dict.fromkeys(kept[:NEWEST]))
            del kept[:NEWEST]
    return [*older, *kept]


def _quoted(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
