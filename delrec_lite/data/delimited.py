"""Columns of delimited text, and the rows of it that do not read."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.data.quotes import close_quotes
from delrec_lite.errors import DataError, UsageError

# RecBole writes the type of a column after its name: user_id:token, timestamp:float. Its quotes are text.
_TYPED = re.compile(r":(?:token|token_seq|float|float_seq)$")
# The first line with which spreadsheets name the separator.
_NAMES_SEPARATOR = re.compile(rb"sep=(.)\n")
_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
# Stands for a separator of several bytes, which pyarrow does not know.
_UNIT_SEPARATOR = "\x1f"
OPEN_QUOTE = "a quote is opened and not closed"
NOT_UTF8 = "not UTF-8 text; save the file as UTF-8"


@dataclass(frozen=True)
class Body:
    """What was read: see ``tables.Table``."""

    columns: list[Any]
    first_row: int
    skipped: list[int]
    malformed: list[tuple[int, str]]


@dataclass(frozen=True)
class _Form:
    """Which columns to read, fields of a row, whether quotes count, and whether a field has several lines."""

    positions: list[int]
    width: int
    quoted: bool
    several_lines: bool


class DelimitedText:
    r"""Delimited text and the cells of its first line.

    With commas and semicolons a field may be quoted. With other separators it may be, too, unless a quote in the file
    is not closed or has text after it: quotes are text there, as in RecBole's files.

    Args:
        path: For errors.
        text: UTF-8 without byte order mark, ``\n`` at the end of every line.
        separator: Empty: the most frequent of tab, comma, semicolon and bar in the first line.

    Raises:
        DataError: The text has no rows.
        UsageError: A separator that cannot separate.
    """

    def __init__(self, path: Path, text: bytes, separator: str = "") -> None:
        separator = _SEPARATORS.get(separator, separator)
        if separator and re.search(r'["\n\r]', separator):
            raise UsageError(f"--separator {separator!r} cannot separate fields", "write it as in --separator ';'")
        self._path = path
        self._start = len(text) - len(text.lstrip(b"\n"))
        if named := _NAMES_SEPARATOR.match(text, self._start):
            separator, self._start = separator or named[1].decode(), named.end()
        self._lines = text.count(b"\n", 0, self._start)
        if len(separator.encode()) > 1:
            text, separator = text.replace(separator.encode(), _UNIT_SEPARATOR.encode()), _UNIT_SEPARATOR
        self._text = text
        head = text[self._start : self._start + _HEADER_BYTES].decode("utf-8", "replace")
        line = head.partition("\n")[0]
        if not line.strip():
            raise DataError(f"{path} holds no rows", "check that it is the right file")
        self._separator = separator or max("\t,;|", key=line.count)
        quoting: Any = csv.QUOTE_MINIMAL if self._separator in ",;" else csv.QUOTE_NONE
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=self._separator, quoting=quoting)
        cells = [cell.strip() for cell in next(reader, [])]
        if quoting == csv.QUOTE_NONE and all(len(c) > 1 and c[0] == c[-1] == '"' for c in cells):
            cells = [cell[1:-1].replace('""', '"') for cell in cells]
        self.first = [_TYPED.sub("", cell) for cell in cells]
        self._first_lines = reader.line_num
        self._spaced = f"{self._separator} " in line
        self._quotes_are_text = any(map(_TYPED.search, cells)) or path.suffix in (".inter", ".item", ".user")

    def read(self, positions: list[int], width: int, header: bool) -> Body:
        """Read the columns at some positions.

        Args:
            positions: From 0.
            width: Number of fields of a row.
            header: Whether the first line names the columns.

        Raises:
            DataError: No rows, or columns that cannot be read.
        """
        start, above = self._start, self._lines
        for _ in range(self._first_lines if header else 0):
            start, above = self._text.index(b"\n", start) + 1, above + 1
        text = self._text[start:]
        if not text:
            raise DataError(f"{self._path} holds no rows", "check that it is the right file")
        text, quoted, several_lines, open_rows = self._closed(text, width)
        malformed = [(row + above + 1, OPEN_QUOTE) for row in open_rows]
        form = _Form(positions, width, quoted, several_lines)
        try:
            return self._parsed(text, above, malformed, form)
        except UnicodeError:
            lines = text.split(b"\n")
            broken = [number for number, line in enumerate(lines) if not _is_utf8(line)]
            for number in broken:
                lines[number] = b""
            malformed += [(number + above + 1, NOT_UTF8) for number in broken]
            return self._parsed(b"\n".join(lines), above, malformed, form)

    def _closed(self, text: bytes, width: int) -> tuple[bytes, bool, bool, list[int]]:
        """Rows without open quotes, whether quotes count, whether a field has several lines, rows with open quotes."""
        if b'"' not in text or self._quotes_are_text:
            return text, False, False, []
        strict = self._separator not in ",;"
        closed = close_quotes(text, self._separator, width, self._spaced, strict)
        if strict and closed.open_rows:
            return text, False, False, []
        return closed.text, True, closed.several_lines, closed.open_rows

    def _parsed(self, text: bytes, above: int, malformed: list[tuple[int, str]], form: "_Form") -> Body:
        """Parse rows.

        Raises:
            UnicodeError: A field that is read is not UTF-8.
            DataError: Anything else that pyarrow cannot read.
        """
        pa = arrow()
        skipped: list[int] = []
        wrong = list(malformed)

        def skip(row: Any) -> str:
            skipped.append(row.number + above)
            if row.text.strip():
                wrong.append((row.number + above, f"{row.actual_columns} fields instead of {row.expected_columns}"))
            return "skip"

        names = [str(position) for position in range(form.width)]
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(text),
                # With several threads pyarrow gives malformed rows no number.
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self._separator,
                    quote_char='"' if form.quoted else False,
                    newlines_in_values=form.several_lines,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types={names[position]: pa.string() for position in form.positions},
                    include_columns=[names[position] for position in dict.fromkeys(form.positions)],
                ),
            )
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            if "UTF8" in reason:
                raise UnicodeError(reason) from error
            raise DataError(
                f"cannot read {self._path}: {reason}", "check that it is the right file and complete"
            ) from error
        columns = [pa.compute.utf8_trim_whitespace(table.column(names[position])) for position in form.positions]
        return Body(columns, above + 1, skipped, wrong)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
