"""The content of a table's file: from a disk, a pipe or standard input, unpacked, as UTF-8."""

import bz2
import codecs
import contextlib
import gzip
import re
import shutil
import sys
import zlib
from collections.abc import Collection
from glob import glob
from pathlib import Path

from delrec_lite.data.packages import arrow
from delrec_lite.errors import DataError

STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
PARQUET_MAGIC = b"PAR1"
_PACKED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4"))
# First bytes of files that people name as a table, what they are, and what to do.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive or a workbook (.xlsx)", "save the sheet as CSV, or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "a workbook (.xls)", "save the sheet as CSV"),
    (b"SQLite format 3", "an SQLite database", "name a query: sqlite:FILE?SELECT ... FROM ..."),
    (b"ARROW1", "an Arrow or Feather file", "write it as Parquet or CSV"),
    (b"ORC", "an ORC file", "write it as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or CSV"),
)
DATA_SUFFIXES = frozenset({".parquet", ".pq", ".csv", ".tsv", ".txt", ".inter", ".jsonl", ".ndjson", ".json"})
PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".zst", ".lz4"})
_CUT = "copy or download it again; it may be incomplete"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class NoRowsError(DataError):
    """A table has columns, or nothing at all, and no rows."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} holds no rows", "check that it is the right file")


def is_stdin(path: Path) -> bool:
    """Whether a path means standard input."""
    return str(path) in STDIN


def is_data_file(name: Path, suffixes: Collection[str] = DATA_SUFFIXES) -> bool:
    """Whether a file in a folder of data is read: it has one of these suffixes, packed or not, and is not hidden.

    Files and folders whose names begin with ``_`` or ``.`` are left out, as Spark's are.

    Args:
        name: Relative to the folder.
        suffixes: In small letters.
    """
    unpacked = [suffix.lower() for suffix in name.suffixes if suffix.lower() not in PACKED_SUFFIXES]
    return bool(unpacked) and unpacked[-1] in suffixes and not any(part.startswith(("_", ".")) for part in name.parts)


def files_in(folder: Path, suffixes: Collection[str] = DATA_SUFFIXES) -> list[Path]:
    """The files of a folder, and of the folders in it, that ``is_data_file`` takes, in the order of their names."""
    inside = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in inside if is_data_file(path.relative_to(folder), suffixes)]


def files_matching(pattern: str, suffixes: Collection[str] = DATA_SUFFIXES) -> list[Path]:
    """The files that fit a pattern, and those in folders that do, as Spark writes them, in the order of their names."""
    found: set[Path] = set()
    for path in map(Path, glob(pattern, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
        if path.is_dir():
            found.update(() if path.name.startswith("_") else files_in(path, suffixes))
        else:
            found.add(path)
    return sorted(path for path in found if path.is_file())


def check_named(text: str) -> None:
    """Refuse what names no place of this machine.

    Raises:
        DataError: It is empty, or an address of the network.
    """
    if not text.strip():
        raise DataError("a file is given without a name", "is a variable of your shell empty?")
    if (address := _ADDRESS.match(text)) and not Path(text).exists():
        raise DataError(
            f"{text} is an address, and {address[0]} is not read here",
            "fetch the file first; of databases duckdb:, sqlite: and postgres: are read",
        )


def is_parquet_file(path: Path) -> bool:
    """Whether a path is a regular file in Parquet, by its suffix or its first bytes.

    Raises:
        DataError: It cannot be read.
    """
    if is_stdin(path) or not path.is_file():
        return False
    if path.suffix.lower() in (".parquet", ".pq"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError as error:
        raise unreadable(path, error) from error


def content_of(path: Path) -> bytes:
    """All bytes of a file, a pipe or standard input (``-``), unpacked if they are compressed; a pipe can be read once.

    Raises:
        DataError: There is no such file, it is a folder, is cut, or has another format.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    path = Path("standard input") if str(path) == "-" else path
    if kind := packed_as(data):
        data = _unpacked(path, data, kind)
    check_foreign(path, data)
    return data


def copy_pipe(path: Path, copy: Path) -> Path:
    """Write the content of a pipe or of standard input (``-``) to a file, and return it.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            source = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
            shutil.copyfileobj(source, stack.enter_context(copy.open("wb")))
    except OSError as error:
        raise unreadable(path, error) from error
    return copy


def packed_as(data: bytes) -> str:
    """The compression that the first bytes of a file tell; empty for none."""
    return next((kind for magic, kind in _PACKED if data.startswith(magic)), "")


def check_foreign(path: Path, data: bytes) -> None:
    """Refuse what the first bytes of a file tell to be no table.

    Raises:
        DataError: It is an archive, a workbook, a database, or a table of another format; says what to do.
    """
    for magic, what, hint in _FOREIGN:
        if data.startswith(magic):
            raise DataError(f"{path} is {what}", hint)


def cut_or_damaged(path: Path, kind: str, error: Exception) -> DataError:
    """The error for a compressed file that cannot be unpacked."""
    reason = " ".join(str(error).split())
    return DataError(f"{path} is cut or damaged: its {kind} data cannot be unpacked: {reason}", _CUT)


def _unpacked(path: Path, data: bytes, kind: str) -> bytes:
    try:
        if kind == "gzip":
            return gzip.decompress(data)
        if kind == "bz2":
            return bz2.decompress(data)
        pa = arrow()
        with pa.CompressedInputStream(pa.BufferReader(data), kind) as stream:
            unpacked: bytes = stream.read()
            return unpacked
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise cut_or_damaged(path, kind, error) from error


def as_utf8(path: Path, data: bytes, encoding: str = "utf-8") -> bytes:
    r"""Text as UTF-8 without byte order mark, with ``\n`` at the end of every line.

    Args:
        path: For errors.
        data: UTF-16 by its byte order mark or its zero bytes, else in ``encoding``.
        encoding: Any codec of Python.

    Raises:
        DataError: Not text in this encoding. UTF-8 is not checked: columns that nobody reads may be broken.
    """
    encoding = encoding_of(data, encoding)
    if encoding != "utf-8":
        try:
            data = data.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not {encoding} text: {error.reason}", "save it as UTF-8") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.endswith(b"\n\n") or not data.endswith(b"\n"):
        data = data.rstrip(b"\n") + b"\n"
    return data if data != b"\n" else b""


def encoding_of(data: bytes, encoding: str) -> str:
    """UTF-16 where the first bytes say so, else ``encoding``."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if zeros := [start for start in (0, 1) if len(data) >= 8 and not any(data[start:8:2])]:
        return "utf-16-be" if zeros[0] == 0 else "utf-16-le"
    return encoding


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"no file at {path}", "check the path")
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return DataError(f"{path} is a folder", "give one file")
    if error.errno is None:  # of pyarrow, which found damaged data
        return DataError(f"cannot read {path}: {' '.join(str(error).split())}", _CUT)
    return DataError(f"cannot read {path}: {error.strerror}", "check the path and its permissions")
