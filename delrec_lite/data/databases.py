"""Reads the rows of a query from DuckDB, SQLite or PostgreSQL, a batch at a time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.data.batches import OpenBatches, tables_of
from delrec_lite.data.blocks import HEAD_BYTES
from delrec_lite.data.json_lines import cell_text
from delrec_lite.data.packages import arrow, duckdb
from delrec_lite.data.sources import check_foreign
from delrec_lite.errors import DataError, FetchError, MissingPackageError, UsageError

_KIND = re.compile(r"(duckdb|sqlite|postgres|postgresql):(.*)", re.IGNORECASE | re.DOTALL)
# The query begins at the first question mark that a statement or the name of a table follows.
_BEFORE = r"(?:--[^\n]*\n|/\*.*?\*/|[\s(])*"
_NAME = r"(?:\w+|\"[^\"]+\")"
_TABLE = rf"{_NAME}(?:\.{_NAME})*"
_WHERE = re.compile(
    rf"(.+?)\?\s*({_BEFORE}(?:select|with|from|table|values)\b.+|{_TABLE})\s*;?\s*", re.IGNORECASE | re.DOTALL
)
_FORM = "write KIND:WHERE?QUERY, such as sqlite:shop.db?SELECT user_id, item_id, timestamp FROM orders"
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/]*@|(password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """A query and its database.

    Attributes:
        kind: ``duckdb``, ``sqlite`` or ``postgres``.
        place: A file, or how PostgreSQL's own library names a database.
        statement: In SQL.
    """

    kind: str
    place: str
    statement: str

    def __str__(self) -> str:
        """For messages, without a password."""
        place = _PASSWORD.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", self.place)
        return f"{self.kind}:{place}"


def parse_query(text: str) -> Query | None:
    """Read ``KIND:WHERE?QUERY``; the query may be the name of a table. None if the text names no database.

    Raises:
        UsageError: It names a database, but no query.
    """
    match = _KIND.fullmatch(text)
    if match is None or Path(text).exists():
        return None
    kind = match[1].lower().removesuffix("ql")
    parts = _WHERE.fullmatch(match[2])
    if parts is None:
        raise UsageError(f"{kind}: needs a database and a query", _FORM)
    place, statement = parts[1], parts[2]
    if kind == "postgres" and place.startswith("//"):
        place = f"postgresql:{place}"
    if re.fullmatch(_TABLE, statement):
        statement = f"SELECT * FROM {_quoted(statement)}"
    return Query(kind, place, statement)


def _quoted(table: str) -> str:
    """A table's name in quotes, so that it may be a word of SQL such as order; as it is where they change it."""
    parts = re.findall(_NAME, table)
    return ".".join(part if part.startswith('"') or part != part.lower() else f'"{part}"' for part in parts)


def open_query(query: Query, rows: int, memory: int) -> OpenBatches:
    """The rows of a query.

    Args:
        query: To run, when columns are read.
        rows: Of a batch.
        memory: Bytes that DuckDB may use for it.

    Raises:
        DataError: While reading: no such file, or the database refuses the query.
        FetchError: While reading: the database cannot be reached.
        MissingPackageError: The package for it is not installed.
    """
    path = Path(str(query))
    readers = {"duckdb": _from_duckdb, "sqlite": _from_sqlite, "postgres": _from_postgres}
    packages = {"duckdb": duckdb, "sqlite": lambda: None, "postgres": _psycopg}
    packages[query.kind]()

    def read(columns: Sequence[str], _: Sequence[str]) -> Iterator[Any]:
        schema, batches = readers[query.kind](query, rows, memory)
        return tables_of(path, schema, batches, columns, rows)

    return OpenBatches(path, False, read)


def _from_duckdb(query: Query, rows: int, memory: int) -> tuple[Any, Iterator[Any]]:
    package = duckdb()
    path = _file(query)
    with path.open("rb") as file:
        check_foreign(path, file.read(HEAD_BYTES))  # of SQLite, for which DuckDB would fetch an extension
    try:
        settings = {"memory_limit": f"{memory // 10**6}MB", "threads": 1}
        connection = package.connect(str(path), read_only=True, config=settings)
        reader = connection.sql(query.statement).to_arrow_reader(rows)
    except package.Error as error:
        raise _refused(query, error) from error

    def batches() -> Iterator[Any]:
        try:
            yield from reader
        except (package.Error, OSError, arrow().ArrowException) as error:
            raise _refused(query, error) from error
        finally:
            connection.close()

    return reader.schema, batches()


def _from_sqlite(query: Query, rows: int, _: int) -> tuple[Any, Iterator[Any]]:
    import sqlite3

    path = _file(query)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        cursor = connection.execute(query.statement)
    except sqlite3.Error as error:
        raise _refused(query, error) from error
    return _of_rows(query, cursor, rows, sqlite3.Error, connection.close)


def _from_postgres(query: Query, rows: int, _: int) -> tuple[Any, Iterator[Any]]:
    package = _psycopg()
    try:
        connection = package.connect(query.place)
    except package.Error as error:
        reason = _one_line(error)
        raise FetchError(f"cannot connect to {query}: {reason}", "start the database, or check its address") from error
    try:
        # A cursor of the server, which sends the rows as they are asked for.
        cursor = connection.cursor(name="delrec")
        cursor.itersize = rows
        cursor.execute(query.statement)
    except package.Error as error:
        connection.close()
        raise _refused(query, error) from error
    return _of_rows(query, cursor, rows, package.Error, connection.close)


def _of_rows(query: Query, cursor: Any, rows: int, failure: Any, close: Any) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of a cursor's rows, every column as text or, where all values are, as numbers."""
    pa = arrow()
    if cursor.description is None:
        close()
        raise _refused(query, ValueError("it gives no rows"))
    names = [column[0] for column in cursor.description]

    def batches() -> Iterator[Any]:
        try:
            while fetched := cursor.fetchmany(min(rows, 1 << 16)):
                columns = [pa.array(map(_value, column), pa.string()) for column in zip(*fetched, strict=True)]
                yield pa.record_batch(columns, names=names)
        except failure as error:
            raise _refused(query, error) from error
        finally:
            close()

    return pa.schema([(name, pa.string()) for name in names]), batches()


def _value(value: Any) -> str | None:
    """A value as text, in the forms that the readers know."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    text = cell_text(value, False)
    return text if isinstance(text, str) else str(value)


def _file(query: Query) -> Path:
    path = Path(query.place)
    if not path.is_file():
        raise DataError(f"no file at {path}", "check the path")
    return path


def _refused(query: Query, error: Exception) -> DataError:
    return DataError(f"cannot read {query}: {_one_line(error)}", "check the file, the query and its columns")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingPackageError(
            "reading PostgreSQL needs psycopg, which is not installed", 'pip install "psycopg[binary]"'
        ) from error
    return psycopg
