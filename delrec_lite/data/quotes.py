r"""Finds quotes that are left open in delimited text, so that they cannot hide the rows after them.

By RFC 4180 a field that begins with a quote ends at the next single quote, over any number of lines. A quote that
someone forgot to close then takes the rows after it into its field, up to another quote. Here a field over several
lines counts as left open if it has no closing quote, if text follows the closing quote, if its row has another number
of fields than the header, or if one of its lines is itself a row: it has the header's number of fields, and no
delimiter in it is followed by a space, as in prose.
"""

import re
from dataclasses import dataclass
from functools import cache

# Bytes that a row over several lines may have.
LONGEST = 1 << 16


@dataclass(frozen=True)
class Quoting:
    """Delimited text whose quotes are all closed.

    Attributes:
        text: The text; a line with an open quote is empty, so that the rows after it keep their numbers.
        open_rows: Numbers of those lines, counted as rows from 0.
        several_lines: Whether a field that is left has several lines.
    """

    text: bytes
    open_rows: list[int]
    several_lines: bool


@dataclass(frozen=True)
class _Patterns:
    lines: re.Pattern[bytes]
    record: re.Pattern[bytes]
    field: re.Pattern[bytes]


@cache
def _patterns(delimiter: bytes, strict: bool) -> _Patterns:
    d = re.escape(delimiter)
    after = b"" if strict else rb"[^%s\n]*+" % d
    plain = rb'[^"%s\n][^%s\n]*+' % (d, d)

    def field(inside: bytes) -> bytes:
        return rb'(?:"%s*+(?:""%s*+)*+"%s|%s|)' % (inside, inside, after, plain)

    within, across = field(rb'[^"\n]'), field(rb'[^"]')
    return _Patterns(
        re.compile(rb"(?:%s(?:%s%s)*+\n)*+" % (within, d, within)),
        re.compile(rb"%s(?:%s%s)*+\n" % (across, d, across)),
        re.compile(across),
    )


def close_quotes(text: bytes, delimiter: str, width: int, spaced: bool = False, strict: bool = False) -> Quoting:
    r"""Blank the lines whose quote is left open.

    Args:
        text: Rows without the header, each with ``\n`` at its end.
        delimiter: One character.
        width: Number of fields of the header.
        spaced: Rows have a space after each delimiter, as the header has.
        strict: Text after a closing quote is not allowed in any field.
    """
    separator = delimiter.encode()
    patterns = _patterns(separator, strict)
    parts: list[bytes] = []
    open_rows: list[int] = []
    several_lines, at, written, row = False, 0, 0, 0
    while True:
        complete = patterns.lines.match(text, at)
        assert complete is not None  # it matches the empty string
        row, at = row + text.count(b"\n", at, complete.end()), complete.end()
        if at >= len(text):
            break
        record = patterns.record.match(text, at, min(len(text), at + LONGEST))
        if record and _is_one_row(record.group(), patterns.field, separator, width, spaced):
            several_lines, at = True, record.end()
        else:
            parts.append(text[written:at])
            open_rows.append(row)
            written = at = text.index(b"\n", at)
            at += 1
        row += 1
    return Quoting(b"".join([*parts, text[written:]]) if parts else text, open_rows, several_lines)


def _is_one_row(record: bytes, field: re.Pattern[bytes], separator: bytes, width: int, spaced: bool) -> bool:
    """Whether a record over several lines is what its writer meant."""
    fields, at = [], 0
    while at < len(record):
        match = field.match(record, at)
        assert match is not None  # it matches the empty string
        fields.append(match.group())
        at = match.end() + 1  # the delimiter, or the end of the line
    if len(fields) != width or any(b"\n" in part and not part.endswith(b'"') for part in fields):
        return False
    lines = record[:-1].split(b"\n")[1:]
    if b"\n" in fields[0] and not any(b"\n" in part for part in fields[1:]):
        lines = lines[:-1]  # the rest of a first field's row always has the delimiters of a row
    return not any(line.count(separator) == width - 1 and (spaced or separator + b" " not in line) for line in lines)
