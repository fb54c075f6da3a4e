"""The rows of one file a batch at a time: the tables that ``tables.open_table`` would give as one."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from delrec_lite.data.blocks import text_blocks
from delrec_lite.data.delimited import DelimitedText
from delrec_lite.data.json_lines import JsonRows, is_json
from delrec_lite.data.packages import arrow
from delrec_lite.data.sources import NoRowsError, is_parquet_file, unreadable
from delrec_lite.data.tables import Layout, Table, reading_parquet, refuse_missing, text_columns
from delrec_lite.errors import DataError

BATCH_ROWS = 1 << 19
ARROW_SUFFIX = ".arrow"


@dataclass(frozen=True)
class OpenBatches:
    """A source whose columns are known but not read yet.

    Attributes:
        path: The source, for errors.
        numbered: Whether it has no header, so that the columns' names are numbers from 1.
        read: Reads columns, by name; some of them, the second argument, may hold lists of words.
    """

    path: Path
    numbered: bool
    read: Callable[[Sequence[str], Sequence[str]], Iterator[Table]]


def open_batches(
    path: Path, layout: Layout, expected: Collection[str] = (), rows: int = BATCH_ROWS, shown: Path | None = None
) -> OpenBatches:
    """Read the names of a file's columns.

    Args:
        path: A regular file.
        layout: What the file does not say itself.
        expected: As for ``open_table``.
        rows: Of a batch, at most, where the format has a choice.
        shown: The name for errors, if it is not the path.

    Raises:
        DataError: No such file, another format, or no rows.
    """
    shown = shown or path
    if path.suffix == ARROW_SUFFIX:
        return _of_batches(shown, lambda: arrow_file(path, shown), rows)
    if is_parquet_file(path):
        return _parquet_file(path, shown, rows)
    blocks = text_blocks(path)
    first = next(blocks, b"")
    if is_json(shown) or first.startswith((b"{", b"[{")):
        return OpenBatches(shown, False, lambda columns, lists: _json(shown, chain([first], blocks), columns, lists))
    text = DelimitedText(shown, first, layout.separator)
    header, names, numbered = text_columns(text, layout, (), expected)

    def read(columns: Sequence[str], _: Sequence[str]) -> Iterator[Table]:
        refuse_missing(shown, columns, names, numbered)
        columns = list(dict.fromkeys(columns))
        again = text_blocks(path)
        next(again, None)
        closed = text.closes_quotes(len(names), header, again)
        positions = [names.index(name) for name in columns]
        for body in text.blocks(positions, len(names), header, blocks, closed):
            cells = dict(zip(columns, body.columns, strict=True))
            yield Table(shown, cells, body.first_row, body.skipped, body.malformed, numbered=numbered)

    return OpenBatches(shown, numbered, read)


def _json(path: Path, blocks: Iterator[bytes], columns: Sequence[str], lists: Sequence[str]) -> Iterator[Table]:
    """Batches of JSON Lines; a JSON list of objects is one batch, because only its end says that it is one."""
    number, names, is_empty = 1, dict[str, None](), True
    for block in blocks:
        if number == 1 and block.lstrip().startswith(b"["):
            block = b"".join([block, *blocks])
        following, is_empty = number + block.count(b"\n"), False
        rows = JsonRows(path, block, number)
        names.update(dict.fromkeys(rows.names))
        cells, numbers, malformed = rows.columns(columns, lists)
        yield Table(path, cells, 1, malformed=malformed, numbers=numbers)
        number = following
    if is_empty:
        raise NoRowsError(path)
    refuse_missing(path, columns, list(names))


def _parquet_file(path: Path, shown: Path, rows: int) -> OpenBatches:
    pa = arrow()
    # A buffered stream, so that a large group of rows is not read as a whole.
    file = reading_parquet(shown, lambda: pa.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False))

    def read(columns: Sequence[str], _: Sequence[str]) -> Iterator[Table]:
        names = list(dict.fromkeys(columns))
        refuse_missing(shown, names, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=rows, columns=names, use_threads=False)
        at = 1
        while (batch := reading_parquet(shown, lambda: next(batches, None))) is not None:
            cells = {name: pa.chunked_array([batch.column(name)]) for name in names}
            yield Table(shown, cells, at)
            at += len(batch)
        if at == 1:
            empty = file.schema_arrow.empty_table()
            yield Table(shown, {name: empty.column(name) for name in names}, 1)

    return OpenBatches(shown, False, read)


def arrow_file(path: Path, shown: Path) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of an Arrow file, written as a stream (as ``datasets`` does) or as a file.

    Raises:
        DataError: It cannot be read.
    """
    pa = arrow()
    try:
        source = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_stream(source)
            return reader.schema, iter(reader)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            return reader.schema, (reader.get_batch(n) for n in range(reader.num_record_batches))
    except OSError as error:
        raise unreadable(shown, error) from error
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise DataError(f"cannot read {shown}: {text}", "check that it is the right file and complete") from error


def _of_batches(path: Path, start: Callable[[], tuple[Any, Iterator[Any]]], rows: int) -> OpenBatches:
    return OpenBatches(path, False, lambda columns, _: tables_of(path, *start(), columns, rows))


def tables_of(path: Path, schema: Any, batches: Iterator[Any], columns: Sequence[str], rows: int) -> Iterator[Table]:
    """Tables of at least ``rows`` rows, the last one excepted, from record batches of any size.

    Raises:
        DataError: No such column, or damaged content.
    """
    pa, names = arrow(), list(dict.fromkeys(columns))
    refuse_missing(path, names, schema.names)
    at, held, count, is_empty = 1, [], 0, True
    empty = schema.empty_table().select(names)
    while True:
        batch = reading_parquet(path, lambda: next(batches, None))
        if batch is not None:
            held.append(batch.select(names))
            count += len(batch)
        if count >= rows or (batch is None and (count or is_empty)):
            table = pa.Table.from_batches(held) if held else empty
            yield Table(path, {name: table.column(name) for name in names}, at)
            at, held, count, is_empty = at + count, [], 0, False
        if batch is None:
            return
