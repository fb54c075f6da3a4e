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
# Stands in place of a line whose quote is left open, as a row of one field; the code point is no character.
OPEN_LINE = "\ufdd1"


@dataclass(frozen=True)
class Quoting:
    """Delimited text whose quotes are all closed.

    Attributes:
        text: The text, with ``OPEN_LINE`` in place of each line whose quote is left open.
        is_closed: Whether there were no such lines.
        several_lines: Whether a field that is left has several lines.
        rest: What begins a row that may end after the text.
    """

    text: bytes
    is_closed: bool
    several_lines: bool
    rest: bytes = b""


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


def close_quotes(
    text: bytes,
    delimiter: str,
    width: int,
    spaced: bool = False,
    strict: bool = False,
    heeds_rows: bool = True,
    is_last: bool = True,
) -> Quoting:
    r"""Replace the lines whose quote is left open.

    Args:
        text: Rows without the header, each with ``\n`` at its end.
        delimiter: One character.
        width: Number of fields of the header, at least 2.
        spaced: Rows have a space after each delimiter, as the header has.
        strict: Text after a closing quote is not allowed in any field.
        heeds_rows: A field with a line that is itself a row counts as left open.
        is_last: No text follows; else the last rows are left for it where they may be part of a longer one.
    """
    separator = delimiter.encode()
    patterns = _patterns(separator, strict)
    parts: list[bytes] = []
    several_lines, at, written = False, 0, 0
    while (at := _skip(patterns.lines, text, at)) < len(text):
        if not is_last and len(text) - at <= LONGEST:
            break
        record = patterns.record.match(text, at, min(len(text), at + LONGEST))
        fields = _fields(record.group(), patterns.field) if record else []
        closed = len(fields) == width and all(part.endswith(b'"') for part in fields if b"\n" in part)
        if record and closed and not (heeds_rows and _holds_row(fields, separator, spaced)):
            several_lines, at = True, record.end()
        else:
            parts += [text[written:at], OPEN_LINE.encode()]
            written = text.index(b"\n", at)
            at = written + 1
    rest, text = text[at:], text[:at]
    return Quoting(b"".join([*parts, text[written:]]) if parts else text, not parts, several_lines, rest)


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _fields(record: bytes, field: re.Pattern[bytes]) -> list[bytes]:
    """The fields of a record, with their quotes."""
    fields, at = [], 0
    while at < len(record):
        end = _skip(field, record, at)
        fields.append(record[at:end])
        at = end + 1  # the delimiter, or the end of the line
    return fields


def _holds_row(fields: list[bytes], separator: bytes, spaced: bool) -> bool:
    """Whether a line of a field over several lines is, with the rest of its line in the file, like a row."""
    for place, part in enumerate(fields):
        _, *lines = part.split(b"\n")
        for number, line in enumerate(lines, start=1):
            # After the last line come the other fields; before it, a row needs what the first fields have.
            needed = len(fields) - 1
            if number == len(lines):
                needed = place if place and not any(b"\n" in later for later in fields[place + 1 :]) else -1
            if line.count(separator) == needed and (spaced or separator + b" " not in line):
                return True
    return False
