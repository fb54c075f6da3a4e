"""The text of a file in blocks of whole lines, unpacked and as UTF-8, for files that memory does not hold."""

import bz2
import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from delrec_lite.data.packages import arrow
from delrec_lite.data.sources import check_foreign, cut_or_damaged, encoding_of, packed_as, unreadable
from delrec_lite.errors import DataError

BLOCK_BYTES = 1 << 24
HEAD_BYTES = 1 << 12


def text_blocks(
    path: Path, encoding: str = "utf-8", size: int = BLOCK_BYTES, *, longest: int | None = None
) -> Iterator[bytes]:
    r"""Blocks of a file's text, as ``sources.as_utf8`` gives it as a whole: each ends with a whole line.

    Args:
        path: A file that can be read again.
        encoding: As for ``as_utf8``.
        size: About the bytes of a block, before it is unpacked.
        longest: Most bytes of a line; None: any.

    Raises:
        DataError: As ``content_of`` and ``as_utf8``; a line is too long.
    """
    left, is_first = b"", True
    for data in _decoded(path, unpacked(path, size), encoding):
        if is_first:
            data, is_first = data.removeprefix(codecs.BOM_UTF8), False
        data = left + data
        # A line's end may have a second byte, and empty lines are rows only if something follows them.
        end = data.rfind(b"\n") if not data.endswith(b"\r") else data.rfind(b"\n", 0, -1)
        end = max(end, data.rfind(b"\r", 0, -1))
        whole = data[: end + 1].rstrip(b"\r\n")
        cut = 0
        if whole:
            cut = len(whole) + (2 if data[len(whole) : len(whole) + 2] == b"\r\n" else 1)
        left = data[cut:]
        if longest is not None and len(left) > longest:
            raise DataError(f"{path} has a line of more than {longest >> 20} MB", "give Parquet, or shorter lists")
        if whole:
            yield _lines(data[:cut])
    left = _lines(left).rstrip(b"\n")
    if left:
        yield left + b"\n"


def _lines(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def _decoded(path: Path, parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The parts as UTF-8."""
    first = next(parts, b"")
    check_foreign(path, first)
    encoding = encoding_of(first, encoding)
    if encoding == "utf-8":
        yield first
        yield from parts
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(first).encode()
        for part in parts:
            yield decoder.decode(part).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding} text: {error.reason}", "save it as UTF-8") from error


def unpacked(path: Path, size: int) -> Iterator[bytes]:
    """The content of a file in parts of about ``size`` bytes, unpacked if it is compressed.

    Raises:
        DataError: It cannot be read, is cut or damaged.
    """
    try:
        with path.open("rb") as file:
            kind = packed_as(file.read(HEAD_BYTES))
            file.seek(0)
            try:
                stream = _opened(file, kind)
                while part := stream(size):
                    yield part
            except (EOFError, OSError, ValueError, zlib.error) as error:
                if not kind:
                    raise
                raise cut_or_damaged(path, kind, error) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _opened(file: BinaryIO, kind: str) -> Callable[[int], bytes]:
    if not kind:
        return file.read
    if kind in ("gzip", "bz2"):
        unpacker: Any = gzip.GzipFile(fileobj=file) if kind == "gzip" else bz2.BZ2File(file)
        return unpacker.read  # type: ignore[no-any-return]
    pa = arrow()
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), kind).read  # type: ignore[no-any-return]
