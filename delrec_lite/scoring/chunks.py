"""Reads an input file in chunks of bounded size: row numbers, users, items or histories, and times as Arrow tables."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from delrec_lite.data.blocks import text_blocks
from delrec_lite.data.json_lines import parsed_lines
from delrec_lite.data.packages import arrow
from delrec_lite.data.tables import DETECTED, Table, open_text, reading_parquet, refuse_missing
from delrec_lite.data.times import PartOfTimes, part_of_times, why_invalid
from delrec_lite.data.values import as_ids, as_text
from delrec_lite.errors import DataError
from delrec_lite.scoring.columns import Shape
from delrec_lite.scoring.inputs import JSON, PARQUET, InputFile
from delrec_lite.scoring.lists import list_in, lists_of, text_in

BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 26
PARQUET_ROWS = 1 << 14
COLUMNS = ("row", "id", "items", "t", "n", "wrong")


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        table: Columns ``row`` (number in the file, int64), ``id`` of the user (string), ``items`` (string, or list of
            strings, null where there is no list), the time as ``t`` (float64) and ``n`` (int64), see ``PartOfTimes``,
            and ``wrong``, what is wrong with a time (string, null where nothing is).
        malformed: Number and reason of rows that do not read.
        times: Of the rows; None where they have none.
    """

    table: Any
    malformed: list[tuple[int, str]] = field(default_factory=list)
    times: PartOfTimes | None = None


def kinds_of(file: InputFile) -> dict[str, Any]:
    """The Arrow type of each column of a file, by name; of text and JSON, whether its values are lists.

    Raises:
        DataError: It cannot be read, or has no rows.
    """
    pa = arrow()
    if file.kind == PARQUET:
        schema = reading_parquet(file.path, lambda: pa.parquet.read_schema(str(file.path)))
        return dict(zip(schema.names, schema.types, strict=True))
    _, text = next(_blocks(file), (0, b""))
    if file.kind != JSON:
        return dict.fromkeys(open_text(file.path, text, DETECTED, (), ()).names, pa.string())
    kinds: dict[str, Any] = {}
    for _, parsed in _objects(file, text, 1):
        for name, value in parsed.items() if isinstance(parsed, dict) else ():
            if value is not None:
                kinds.setdefault(name, pa.list_(pa.string()) if isinstance(value, list) else pa.string())
            else:
                kinds.setdefault(name, pa.string())
    if not kinds and text:
        raise DataError(f"{file.path} has no JSON object in a line", "write one object a line, or one list of objects")
    return kinds


def chunks(file: InputFile, shape: Shape) -> Iterator[Chunk]:
    """The rows of a file, in order.

    Raises:
        DataError: It cannot be read, or a column has values that are no ids, lists or times.
    """
    if file.kind == PARQUET:
        yield from _parquet_chunks(file, shape)
    elif file.kind == JSON:
        for above, text in _blocks(file):
            yield _json_chunk(_objects(file, text, above + 1), shape)
    else:
        yield from _text_chunks(file, shape)


def _parquet_chunks(file: InputFile, shape: Shape) -> Iterator[Chunk]:
    pa = arrow()
    opened = reading_parquet(file.path, lambda: pa.parquet.ParquetFile(str(file.path)))
    batches = opened.iter_batches(PARQUET_ROWS, columns=list(shape.names))
    row = 1
    with opened:
        refuse_missing(file.path, shape.names, opened.schema_arrow.names)
        while (batch := reading_parquet(file.path, lambda: next(batches, None))) is not None:
            columns = {
                name: pa.chunked_array([batch.column(name)], batch.schema.field(name).type) for name in shape.names
            }
            numbers = np.arange(row, row + batch.num_rows)
            row += batch.num_rows
            yield _normal(Table(file.path, columns, 1), numbers, shape, [])


def _text_chunks(file: InputFile, shape: Shape) -> Iterator[Chunk]:
    header = b""
    for above, text in _blocks(file):
        whole = header + text
        if not header:
            header = _header(text)
            if text == header:
                continue
        table = open_text(file.path, whole, DETECTED, (), ()).read(shape.names)
        shift = above - (whole.count(b"\n") - text.count(b"\n"))
        count = len(table.columns[shape.user])
        all_rows = np.arange(table.first_row, table.first_row + count + len(table.skipped))
        numbers = np.setdiff1d(all_rows, np.array(table.skipped, np.int64))[:count]
        malformed = [(row + shift, reason) for row, reason in table.malformed]
        yield _normal(table, numbers + shift, shape, malformed)


def _header(text: bytes) -> bytes:
    """The lines up to that with the names of the columns; before it may come one that names the separator."""
    end = 0
    while (line_end := text.find(b"\n", end)) >= 0:
        line, end = text[end:line_end], line_end + 1
        if line.strip() and not line.startswith(b"sep="):
            break
    return text[:end]


def _json_chunk(objects: Iterator[tuple[int, Any]], shape: Shape) -> Chunk:
    pa = arrow()
    rows: list[tuple[int, str, Any, str]] = []
    malformed = []
    for number, parsed in objects:
        if not isinstance(parsed, dict):
            malformed.append((number, "not a JSON object"))
            continue
        user, time = text_in(parsed.get(shape.user)), text_in(parsed.get(shape.time))
        value = parsed.get(shape.values)
        items = list_in(value) if shape.listed else text_in(value)
        texts = {shape.user: user, shape.time: time} | ({} if shape.listed else {shape.values: items})
        if wrong := [name for name, text in texts.items() if text is None]:
            malformed.append((number, f"{wrong[0]} is neither text nor a number"))
        else:
            rows.append((number, user or "", items, time or ""))
    kinds = (pa.int64(), pa.string(), pa.list_(pa.string()) if shape.listed else pa.string(), pa.string())
    row, user, items, time = (pa.chunked_array([[r[n] for r in rows]], kind) for n, kind in enumerate(kinds))
    return _chunk(row, user, items, time if shape.time else None, shape.time, malformed)


def _normal(table: Table, numbers: Any, shape: Shape, malformed: list[tuple[int, str]]) -> Chunk:
    """A chunk from the columns of a file."""
    pa = arrow()
    users = as_ids(table.columns[shape.user], table.where(shape.user))
    values = table.columns[shape.values]
    if shape.listed:
        flat, lengths = lists_of(values, table.where(shape.values))
        offsets = np.append(0, np.cumsum(np.maximum(lengths, 0)))
        items = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(lengths < 0))
    else:
        items = as_ids(values, table.where(shape.values))
    times = table.columns[shape.time] if shape.time else None
    return _chunk(pa.array(numbers, pa.int64()), users, items, times, table.where(shape.time), malformed)


def _chunk(row: Any, user: Any, items: Any, time: Any, where: str, malformed: list[tuple[int, str]]) -> Chunk:
    """A chunk; ``time`` is a column of any type that times have, or None; ``where`` names it in errors."""
    pa, count = arrow(), len(row)
    if time is None:
        empty = (pa.nulls(count, pa.float64()), pa.nulls(count, pa.int64()), pa.nulls(count, pa.string()))
        return Chunk(pa.table([row, user, items, *empty], COLUMNS), malformed)
    times = part_of_times(time, where)
    wrong: list[str | None] = [None] * count
    for at in np.flatnonzero(~times.valid).tolist():
        wrong[at] = why_invalid(where.rpartition(": ")[2], as_text(time.slice(at, 1))[0].as_py())
    exact = np.zeros(count, np.int64) if times.exact is None else times.exact
    of_time = (pa.array(times.values, pa.float64()), pa.array(exact), pa.array(wrong, pa.string()))
    return Chunk(pa.table([row, user, items, *of_time], COLUMNS), malformed, times)


def _objects(file: InputFile, text: bytes, first: int) -> Iterator[tuple[int, Any]]:
    """Number and content of each line that is not empty, None where it is no JSON; or of each value of one list."""
    if first == 1 and text.lstrip().startswith(b"["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except (ValueError, RecursionError) as error:
            hint = f"write one object a line; lists of up to {BLOCK_BYTES >> 20} MB are read too"
            raise DataError(f"{file.path} begins like a JSON list but is none: {error}", hint) from error
        return
    yield from parsed_lines(text, first)


def _blocks(file: InputFile) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a text, as UTF-8, and how many lines are above them."""
    above = 0
    for text in text_blocks(file.path, size=BLOCK_BYTES, longest=LONGEST_LINE):
        yield above, text
        above += text.count(b"\n")
