"""Columns of delimited text, and the rows of it that do not read."""

import codecs
import csv
import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.packages import arrow
from delrec_lite.data.quotes import OPEN_LINE, close_quotes
from delrec_lite.data.sources import NoRowsError
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
# A code point that is no character stands for bytes that are not UTF-8.
_BROKEN = "\ufdd0"
_MARKING = "delrec-lite-mark"
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

    With commas and semicolons a field may be quoted. With other separators it may be, too, unless any quote in the
    file is not closed or has text after it: then quotes are text, as in RecBole's files.

    Args:
        path: For errors.
        text: UTF-8 without byte order mark, ``\n`` at the end of every line.
        separator: Used if the first line has it; else the most frequent of tab, comma, semicolon and bar there.

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
            separator, self._start = separator or named[1].decode(errors="replace"), named.end()
        self._lines = text.count(b"\n", 0, self._start)
        if separator.encode() not in text[self._start : text.find(b"\n", self._start)]:
            separator = ""  # that of the user's other file
        self._long_separator = separator.encode() if len(separator.encode()) > 1 else b""
        self._text = self._marked(text)
        separator = _UNIT_SEPARATOR if self._long_separator else separator
        head = self._text[self._start : self._start + _HEADER_BYTES].decode("utf-8", "replace")
        line = head.partition("\n")[0]
        if not line.strip():
            raise NoRowsError(path)
        self._separator = separator or max("\t,;|", key=line.count)
        cells, self._first_lines = self._cells(head)
        self.first = [_TYPED.sub("", cell) for cell in cells]
        self._spaced = f"{self._separator} " in line
        self._quotes_are_text = any(map(_TYPED.search, cells)) or path.suffix in (".inter", ".item", ".user")

    def _cells(self, head: str) -> tuple[list[str], int]:
        """The cells of the first row, and its lines.

        Raises:
            DataError: A quote in it is not closed.
        """
        if self._separator not in ",;":
            cells = [cell.strip() for cell in head.partition("\n")[0].split(self._separator)]
            if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
                cells = [cell[1:-1].replace('""', '"') for cell in cells]
            return cells, 1
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=self._separator)
        cells = next(reader, [])
        # The names of columns may have two lines; the rows below them end at the end of the text, or at a quote there.
        if any(cell.count("\n") > 1 for cell in cells):
            raise DataError(f"{self._path}, row {self._lines + 1}: {OPEN_QUOTE}", "close it, or remove it")
        return [cell.strip() for cell in cells], reader.line_num

    def read(self, positions: list[int], width: int, header: bool) -> Body:
        """Read the columns at some positions.

        Args:
            positions: From 0.
            width: Number of fields of a row.
            header: Whether the first line names the columns.

        Raises:
            DataError: No rows, or columns that cannot be read.
        """
        (body,) = self.blocks(positions, width, header, ())
        return body

    def blocks(
        self, positions: list[int], width: int, header: bool, rest: Iterable[bytes], quotes_are_closed: bool = False
    ) -> Iterator[Body]:
        """Read the columns of the text and of more text that follows it, block by block; otherwise as ``read``.

        Args:
            positions: From 0.
            width: Number of fields of a row.
            header: Whether the first line names the columns.
            rest: Whole lines, as the text.
            quotes_are_closed: It is known of the whole text that no quote makes all quotes text; see the class.
        """
        start, above = self._start, self._lines
        for _ in range(self._first_lines if header else 0):
            start, above = self._text.index(b"\n", start) + 1, above + 1
        left, blocks, is_empty = self._text[start:], iter(rest), True
        self._text = b""
        while True:
            following = next(blocks, None)
            text, quoted, several_lines, left = self._closed(left, width, following is None, quotes_are_closed)
            if text:
                is_empty = False
                body = self._parsed(text, above, _Form(positions, width, quoted, several_lines))
                above += len(body.columns[0]) + len(body.skipped)
                yield body
            if following is None:
                break
            left += self._marked(following)
        if is_empty:
            raise NoRowsError(self._path)

    def closes_quotes(self, width: int, header: bool, rest: Iterable[bytes]) -> bool:
        """Whether no quote of the text makes all quotes text, with a separator other than comma and semicolon."""
        if self._separator in ",;" or self._quotes_are_text or width < 2:
            return False
        left, blocks = self._text[self._start :], iter(rest)
        while True:
            following = next(blocks, None)
            if b'"' in left:
                found = close_quotes(
                    left, self._separator, width, strict=True, heeds_rows=False, is_last=following is None
                )
                left = found.rest
                if not found.is_closed:
                    return False
            else:
                left = b""
            if following is None:
                return True
            left += self._marked(following)

    def _marked(self, text: bytes) -> bytes:
        """The text as it is parsed."""
        if self._long_separator:
            text = text.replace(self._long_separator, _UNIT_SEPARATOR.encode())
        return _with_marks(text)

    def _closed(
        self, text: bytes, width: int, is_last: bool, quotes_are_closed: bool
    ) -> tuple[bytes, bool, bool, bytes]:
        """Rows without open quotes, whether quotes count, whether a field has several lines, and rows for later."""
        if b'"' not in text or self._quotes_are_text or width < 2:
            return text, False, False, b""
        strict = self._separator not in ",;"
        if strict and not quotes_are_closed:
            whole = close_quotes(text, self._separator, width, strict=True, heeds_rows=False) if is_last else None
            if whole is None or not whole.is_closed:
                return text, False, False, b""
        closed = close_quotes(text, self._separator, width, self._spaced, strict, is_last=is_last)
        return closed.text, True, closed.several_lines, closed.rest

    def _parsed(self, text: bytes, above: int, form: "_Form") -> Body:
        """Parse rows.

        Raises:
            DataError: Anything that pyarrow cannot read.
        """
        pa = arrow()
        skipped: list[int] = []
        wrong: list[tuple[int, str]] = []

        def skip(row: Any) -> str:
            skipped.append(row.number + above)
            reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
            wrong.append((row.number + above, OPEN_QUOTE if row.text == OPEN_LINE else reason))
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
            raise DataError(
                f"cannot read {self._path}: {reason}", "check that it is the right file and complete"
            ) from error
        columns = [pa.compute.utf8_trim_whitespace(table.column(names[position])) for position in form.positions]
        if _BROKEN.encode() in text:
            broken = np.any([pa.compute.match_substring(c, _BROKEN).to_numpy() for c in columns], axis=0)
            numbers = [row_number(int(record), above + 1, skipped) for record in np.flatnonzero(broken)]
            wrong += [(number, NOT_UTF8) for number in numbers]
            skipped = sorted([*skipped, *numbers])
            columns = [column.filter(pa.array(~broken)) for column in columns]
        return Body(columns, above + 1, skipped, wrong)


def row_number(record: int, first_row: int, skipped: list[int]) -> int:
    """The number of a record's row, given the numbers of the rows without a record, ascending."""
    number = record + first_row
    while (shifted := record + first_row + bisect_right(skipped, number)) != number:
        number = shifted
    return number


def _with_marks(text: bytes) -> bytes:
    """The text with ``_BROKEN`` in place of bytes that are not UTF-8; the same object if there are none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(text), _BLOCK_BYTES):
            decoder.decode(text[at : at + _BLOCK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return text.decode("utf-8", _MARKING).encode()
    return text


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _BROKEN, error.end


codecs.register_error(_MARKING, _mark)
