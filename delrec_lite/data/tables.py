"""Reads columns of CSV, TSV, RecBole atomic files, JSON Lines and Parquet, with the row number of each record."""

import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delrec_lite.data.cells import cells_of, is_list
from delrec_lite.data.delimited import DelimitedText, row_number
from delrec_lite.data.json_lines import JsonRows, is_json
from delrec_lite.data.packages import arrow
from delrec_lite.data.sources import PARQUET_MAGIC, as_utf8, content_of, is_parquet_file, unreadable
from delrec_lite.data.values import as_ids, as_text
from delrec_lite.errors import DataError


@dataclass(frozen=True)
class Layout:
    """How the user's files are written, where their content does not say it.

    Attributes:
        separator: Of delimited text whose first line has it; else the most frequent of tab, comma, semicolon and bar.
        header: Whether the first line has the names of the columns; without them, columns have numbers from 1.
        keep_na: Read words such as NULL and nan as values, not as missing values.
    """

    separator: str = ""
    header: bool = True
    keep_na: bool = False


DETECTED = Layout()


@dataclass(frozen=True)
class Table:
    """Columns of a file, and the row numbers of its records.

    Attributes:
        path: The file.
        columns: Arrow columns by name; stripped text, or the types of Parquet.
        first_row: Row number of the first record: 2 after a header.
        skipped: Numbers of the rows that the columns leave out, ascending.
        malformed: Number and reason of the skipped rows that are not empty lines.
        numbers: Row number of each record, where ``first_row`` and ``skipped`` do not say it.
        numbered: Whether the columns' names are their numbers.
    """

    path: Path
    columns: dict[str, Any]
    first_row: int
    skipped: list[int] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)
    numbers: list[int] | None = None
    numbered: bool = False

    def row(self, record: int) -> int:
        """The row number in the file of a record, given its index in the columns."""
        if self.numbers is not None:
            return self.numbers[record]
        return row_number(record, self.first_row, self.skipped)

    def label(self, name: str) -> str:
        """A column's name in messages about a row."""
        return f"column {name}" if self.numbered else name

    def where(self, name: str) -> str:
        """File and column, in messages about a whole column."""
        return f"{self.path}: {self.label(name)}"

    def texts(self, name: str) -> list[str]:
        """A column as Python strings."""
        texts: list[str] = as_text(self.columns[name], self.where(name)).to_pylist()
        return texts

    def ids(self, name: str) -> list[str]:
        """A column of ids as Python strings; large floats are refused, because they are not exact."""
        ids: list[str] = as_ids(self.columns[name], self.where(name)).to_pylist()
        return ids


def joined(tables: Sequence[Table], path: Path) -> Table:
    """Several tables as one, each row with the number that it has in its file; ``path`` is for errors."""
    columns = {
        name: _chunks([table.columns[name] for table in tables], tables[0].where(name)) for name in tables[0].columns
    }
    numbers = [table.row(n) for table in tables for n in range(len(next(iter(table.columns.values()))))]
    malformed = [row for table in tables for row in table.malformed]
    return Table(path, columns, 1, malformed=malformed, numbers=numbers, numbered=tables[0].numbered)


def _chunks(columns: Sequence[Any], name: str) -> Any:
    """Columns one after another: of one type, or of lists where one has lists, else of text."""
    pa = arrow()
    if any(column.type != columns[0].type for column in columns):
        if any(is_list(column.type) for column in columns):
            parts = [cells_of(column, name, keep_na=True) for column in columns]
            cells = [[cell] if isinstance(cell, str) else cell for part in parts for cell in part]
            return pa.chunked_array([pa.array(cells, pa.list_(pa.string()))])
        columns = [as_text(column, name) for column in columns]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


@dataclass(frozen=True)
class OpenTable:
    """A table whose columns are known but not read yet.

    Attributes:
        path: The file.
        names: Of its columns.
        numbered: Whether it has no header, so that the names are numbers from 1.
    """

    path: Path
    names: list[str]
    numbered: bool
    _read: Callable[[Sequence[str], Sequence[str]], Table]

    def read(self, columns: Sequence[str], lists: Sequence[str] = ()) -> Table:
        """Read some columns.

        Args:
            columns: Their names.
            lists: Columns whose cells may be lists of words, in Parquet and JSON.

        Raises:
            DataError: No such column, or damaged content.
        """
        refuse_missing(self.path, columns, self.names, self.numbered)
        return self._read(list(dict.fromkeys(columns)), lists)


def refuse_missing(path: Path, columns: Sequence[str], names: Sequence[str], numbered: bool = False) -> None:
    """Refuse columns that are not among the names of a table, or are there twice.

    Raises:
        DataError: There is one.
    """
    names = list(names)
    missing = [name for name in columns if name not in names]
    if missing and numbered:
        raise DataError(
            f"{path} has no header and {len(names)} columns, and {missing[0]!r} is none of them",
            f"name columns by their numbers, 1 to {len(names)}",
        )
    if missing:
        shown = textwrap.shorten(", ".join(names), 300, placeholder=" ...")
        raise DataError(f"{path} has no column {missing[0]!r}", f"it has: {shown}")
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"{path} has several columns {twice[0]!r}", "give each column a name of its own")


def open_table(
    path: Path,
    layout: Layout = DETECTED,
    names: Sequence[str] = (),
    expected: Collection[str] = (),
    encoding: str = "utf-8",
) -> OpenTable:
    """Read a file's content and the names of its columns.

    Args:
        path: Parquet and JSON by suffix or content, else delimited text; ``-`` is standard input. Compressed files are
            unpacked.
        layout: What the file does not say itself.
        names: All column names, for a text file without a header.
        expected: Names by which a first line is a header although ``layout`` says that there is none.
        encoding: Of a text file.

    Raises:
        DataError: No such file, another format, or no rows.
        MissingPackageError: pyarrow is not installed.
    """
    if is_parquet_file(path):
        return _open_parquet(path, str(path))
    data = content_of(path)
    path = Path("standard input") if str(path) == "-" else path
    if data.startswith(PARQUET_MAGIC):
        return _open_parquet(path, arrow().BufferReader(data))
    text = as_utf8(path, data, encoding)
    if is_json(path) or (text.startswith((b"{", b"[{")) and not names):
        return _open_json(path, text)
    return open_text(path, text, layout, names, expected)


def read_table(
    path: Path,
    columns: Sequence[str],
    names: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
) -> Table:
    """Read some columns of a file; see ``open_table`` and ``OpenTable.read``."""
    return open_table(path, Layout(delimiter), names, encoding=encoding).read(columns)


def _open_parquet(path: Path, source: Any) -> OpenTable:
    pa = arrow()

    def read(columns: Sequence[str], _: Sequence[str]) -> Table:
        table = reading_parquet(path, lambda: pa.parquet.ParquetFile(source).read(columns=list(columns)))
        return Table(path, {name: table.column(name) for name in columns}, 1)

    return OpenTable(path, list(reading_parquet(path, lambda: pa.parquet.read_schema(source).names)), False, read)


def reading_parquet(path: Path, read: Callable[[], Any]) -> Any:
    """The result of ``read``, with one clear error for a file that is absent, damaged or something else.

    Raises:
        DataError: The file cannot be read.
    """
    pa = arrow()
    try:
        return read()
    except OSError as error:
        raise unreadable(path, error) from error
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise DataError(f"cannot read {path}: {text}", "check that it is the right file and complete") from error


def _open_json(path: Path, text: bytes) -> OpenTable:
    rows = JsonRows(path, text)

    def read(columns: Sequence[str], lists: Sequence[str]) -> Table:
        cells, numbers, malformed = rows.columns(columns, lists)
        return Table(path, cells, 1, malformed=malformed, numbers=numbers)

    return OpenTable(path, rows.names, False, read)


def text_columns(
    rows: DelimitedText, layout: Layout, names: Sequence[str] = (), expected: Collection[str] = ()
) -> tuple[bool, list[str], bool]:
    """Whether the first line is a header, the names of the columns, and whether these are numbers."""
    header = layout.header and not names
    if not header and not names and expected and set(expected) <= set(rows.first):
        header = True
    columns = rows.first if header else list(names) or [str(n + 1) for n in range(len(rows.first))]
    return header, columns, not header and not names


def open_text(path: Path, text: bytes, layout: Layout, names: Sequence[str], expected: Collection[str]) -> OpenTable:
    """Delimited text as a table; arguments as in ``open_table``, ``text`` as ``as_utf8`` gives it."""
    rows = DelimitedText(path, text, layout.separator)
    header, columns, numbered = text_columns(rows, layout, names, expected)

    def read(chosen: Sequence[str], _: Sequence[str]) -> Table:
        positions = [columns.index(name) for name in chosen]
        body = rows.read(positions, len(columns), header)
        cells = dict(zip(chosen, body.columns, strict=True))
        return Table(path, cells, body.first_row, body.skipped, body.malformed, numbered=numbered)

    return OpenTable(path, columns, numbered, read)
