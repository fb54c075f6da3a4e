"""Columns of a table as Arrow strings: CSV, TSV, RecBole atomic files (through pyarrow's readers) and Parquet."""

import csv
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delrec_lite.errors import DataError, MissingPackageError, install_line

# RecBole writes the kind of a column behind its name: user_id:token, timestamp:float.
_TYPED = re.compile(r":(?:token|token_seq|float|float_seq)$")
_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """Some columns of a file, and where its rows stand.

    Attributes:
        path: The file.
        columns: Arrow columns by name; text without white space at its ends, or the numbers and times of Parquet.
        first: Row number of the first record: 2 behind a header.
        cut: Numbers of the rows that have too few or too many fields, in order; they are not among the columns.
        found: Number and reason of those that are malformed (an empty line is not).
    """

    path: Path
    columns: dict[str, Any]
    first: int
    cut: list[int] = field(default_factory=list)
    found: list[tuple[int, str]] = field(default_factory=list)

    def row(self, record: int) -> int:
        """The number in the file of the record at a place in the columns."""
        number = record + self.first
        while (shifted := record + self.first + bisect_right(self.cut, number)) != number:
            number = shifted
        return number

    def texts(self, name: str) -> list[str]:
        """A column as Python strings."""
        texts: list[str] = as_text(self.columns[name]).to_pylist()
        return texts


def arrow() -> Any:
    """The package ``pyarrow`` with what is used of it.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            "reading tables needs pyarrow, which is not installed", install_line("pyarrow")
        ) from error
    return pyarrow


def header_of(path: Path) -> list[str]:
    """The column names of a file; RecBole's kinds behind them are left out.

    Raises:
        DataError: No such file, or it does not read.
    """
    pa = arrow()
    if path.suffix.lower() in PARQUET:
        return list(_opened(path, lambda: pa.parquet.read_schema(path).names))
    return _header(path, "utf-8-sig")[0]


def read_table(
    path: Path,
    wanted: Sequence[str],
    names: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "utf-8-sig",
) -> Table:
    """Read the wanted columns of a file.

    Args:
        path: Parquet by its ending, else text; ``.gz`` is unpacked. Only commas and semicolons go with quotes.
        wanted: Column names.
        names: All column names, for a text file without a header.
        delimiter: Default: the commonest of tab, comma and semicolon in the first line.
        encoding: Of a text file.

    Raises:
        DataError: No such file or column, or not the kind of file that it should be.
        MissingPackageError: pyarrow is not installed.
    """
    if path.suffix.lower() in PARQUET:
        return _read_parquet(path, wanted)
    pa = arrow()
    header, commonest = _header(path, encoding)
    delimiter, header = delimiter or commonest, list(names) or header
    _need(path, wanted, header)
    places = [str(header.index(name)) for name in wanted]
    found: list[tuple[int, str]] = []
    cut: list[int] = []

    def malformed(row: Any) -> str:
        cut.append(row.number)
        if row.text.strip():
            found.append((row.number, f"{row.actual_columns} fields instead of {row.expected_columns}"))
        return "skip"

    def read() -> Any:
        return pa.csv.read_csv(
            str(path),
            # One thread: with several, a malformed row has no number.
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=[str(place) for place in range(len(header))],
                skip_rows=0 if names else 1,
                encoding=encoding.removesuffix("-sig"),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if delimiter in ",;" else False,
                newlines_in_values=delimiter in ",;",
                ignore_empty_lines=False,
                invalid_row_handler=malformed,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={place: pa.string() for place in places}, include_columns=list(dict.fromkeys(places))
            ),
        )

    table = _opened(path, read)
    columns = {
        name: pa.compute.utf8_trim_whitespace(table.column(place)) for name, place in zip(wanted, places, strict=True)
    }
    return Table(path, columns, 1 if names else 2, cut, found)


def as_text(column: Any) -> Any:
    """An Arrow column as strings; what is null is empty, and whole numbers have no decimal point."""
    pa = arrow()
    if pa.types.is_floating(column.type):
        with suppress(pa.ArrowInvalid):
            column = column.cast(pa.int64())
    return pa.compute.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    pa = arrow()
    _need(path, wanted, _opened(path, lambda: pa.parquet.read_schema(path)).names)
    table = _opened(path, lambda: pa.parquet.read_table(path, columns=list(dict.fromkeys(wanted))))
    return Table(path, {name: table.column(name) for name in wanted}, 1)


def _opened(path: Path, read: Any) -> Any:
    """What ``read`` returns, its errors in this program's words."""
    pa = arrow()
    try:
        return read()
    except FileNotFoundError as error:
        raise DataError(f"no file at {path}", "check the path") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, UnicodeDecodeError) or "UTF8" in text:
            raise DataError(f"{path} is not UTF-8 text: {text}", "save it as UTF-8") from error
        if "Empty CSV" in text:
            raise DataError(f"{path} holds no rows", "check that it is the right file") from error
        raise DataError(f"{path} does not read: {text}", "check that it is the right file, and whole") from error


def _header(path: Path, encoding: str) -> tuple[list[str], str]:
    """The cells of the first line, and what separates them."""

    def read() -> str:
        with arrow().input_stream(str(path), compression="detect") as file:
            line = file.read(_HEADER_BYTES).splitlines()[:1]
        return line[0].decode(encoding) if line else ""

    line = _opened(path, read)
    delimiter = max("\t,;", key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return [_TYPED.sub("", cell.strip()) for cell in cells], delimiter


def _need(path: Path, wanted: Sequence[str], header: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}", f"it has: {', '.join(header)}")
