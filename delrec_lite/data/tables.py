"""Reads columns of CSV, TSV, RecBole atomic files and Parquet through pyarrow."""

import csv
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delrec_lite.errors import DataError, MissingPackageError, install_line

# RecBole writes the type of a column after its name: user_id:token, timestamp:float.
_TYPED = re.compile(r":(?:token|token_seq|float|float_seq)$")
_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """Columns of a file, and the row numbers of its records.

    Attributes:
        path: The file.
        columns: Arrow columns by name; stripped text, or the numbers and times of Parquet.
        first_row: Row number of the first record: 2 after a header.
        skipped: Numbers of the rows with too few or too many fields, ascending; the columns leave them out.
        malformed: Number and reason of the skipped rows that are not empty lines.
    """

    path: Path
    columns: dict[str, Any]
    first_row: int
    skipped: list[int] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)

    def row(self, record: int) -> int:
        """The row number in the file of a record, given its index in the columns."""
        number = record + self.first_row
        while (shifted := record + self.first_row + bisect_right(self.skipped, number)) != number:
            number = shifted
        return number

    def texts(self, name: str) -> list[str]:
        """A column as Python strings."""
        texts: list[str] = as_text(self.columns[name]).to_pylist()
        return texts


def arrow() -> Any:
    """The package ``pyarrow`` with the submodules that are used.

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
    """The column names of a file, without RecBole's types.

    Raises:
        DataError: No such file, or it cannot be read.
    """
    pa = arrow()
    if path.suffix.lower() in PARQUET:
        return list(_read_file(path, lambda: pa.parquet.read_schema(path).names))
    return _header(path, "utf-8-sig")[0]


def read_table(
    path: Path,
    columns: Sequence[str],
    names: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "utf-8-sig",
) -> Table:
    """Read some columns of a file.

    Args:
        path: Parquet by its suffix, else text; ``.gz`` is unpacked. Quotes count with commas and semicolons only.
        columns: Names of the columns to read.
        names: All column names, for a text file without a header.
        delimiter: Default: the most frequent of tab, comma and semicolon in the first line.
        encoding: Of a text file.

    Raises:
        DataError: No such file or column, or another file format.
        MissingPackageError: pyarrow is not installed.
    """
    if path.suffix.lower() in PARQUET:
        return _read_parquet(path, columns)
    pa = arrow()
    header, detected = _header(path, encoding)
    delimiter, header = delimiter or detected, list(names) or header
    _require_columns(path, columns, header)
    positions = [str(header.index(name)) for name in columns]
    malformed: list[tuple[int, str]] = []
    skipped: list[int] = []

    def skip(row: Any) -> str:
        skipped.append(row.number)
        if row.text.strip():
            malformed.append((row.number, f"{row.actual_columns} fields instead of {row.expected_columns}"))
        return "skip"

    def read() -> Any:
        return pa.csv.read_csv(
            str(path),
            # With several threads pyarrow gives malformed rows no number.
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=[str(position) for position in range(len(header))],
                skip_rows=0 if names else 1,
                encoding=encoding.removesuffix("-sig"),
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if delimiter in ",;" else False,
                newlines_in_values=delimiter in ",;",
                ignore_empty_lines=False,
                invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={position: pa.string() for position in positions},
                include_columns=list(dict.fromkeys(positions)),
            ),
        )

    table = _read_file(path, read)
    texts = {
        name: pa.compute.utf8_trim_whitespace(table.column(position))
        for name, position in zip(columns, positions, strict=True)
    }
    return Table(path, texts, 1 if names else 2, skipped, malformed)


def as_text(column: Any) -> Any:
    """An Arrow column as strings; null becomes empty, and whole numbers have no decimal point."""
    pa = arrow()
    if pa.types.is_floating(column.type):
        with suppress(pa.ArrowInvalid):
            column = column.cast(pa.int64())
    return pa.compute.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))


def _read_parquet(path: Path, columns: Sequence[str]) -> Table:
    pa = arrow()
    _require_columns(path, columns, _read_file(path, lambda: pa.parquet.read_schema(path)).names)
    table = _read_file(path, lambda: pa.parquet.read_table(path, columns=list(dict.fromkeys(columns))))
    return Table(path, {name: table.column(name) for name in columns}, 1)


def _read_file(path: Path, read: Any) -> Any:
    """Call ``read``; raise its errors as ``DataError``."""
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
        raise DataError(f"cannot read {path}: {text}", "check that it is the right file and complete") from error


def _header(path: Path, encoding: str) -> tuple[list[str], str]:
    """The cells of the first line, and their delimiter."""

    def read() -> str:
        with arrow().input_stream(str(path), compression="detect") as file:
            line = file.read(_HEADER_BYTES).splitlines()[:1]
        return line[0].decode(encoding) if line else ""

    line = _read_file(path, read)
    delimiter = max("\t,;", key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return [_TYPED.sub("", cell.strip()) for cell in cells], delimiter


def _require_columns(path: Path, columns: Sequence[str], header: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}", f"it has: {', '.join(header)}")
