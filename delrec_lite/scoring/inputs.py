"""The files of an input: one file, the files of a folder, or those of a pattern; their kinds and their fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from delrec_lite.data.blocks import HEAD_BYTES, unpacked
from delrec_lite.data.json_lines import is_json
from delrec_lite.data.sources import (
    PARQUET_MAGIC,
    as_utf8,
    check_foreign,
    check_named,
    content_of,
    files_in,
    files_matching,
    is_parquet_file,
    is_stdin,
    unreadable,
)
from delrec_lite.errors import DataError
from delrec_lite.files import sha256_of

PARQUET, JSON, TEXT = "parquet", "json", "text"


@dataclass(frozen=True)
class InputFile:
    """A file of an input.

    Attributes:
        path: Where it is.
        kind: ``parquet``, ``json`` or ``text``.
        is_empty: JSON Lines without a line, which is a table without rows.
    """

    path: Path
    kind: str
    is_empty: bool = False


def input_files(source: str) -> list[InputFile]:
    """The files that a path names: itself, those of a folder and the folders in it, or those that fit a pattern.

    Files and folders whose names begin with ``_`` or ``.`` are left out of a folder, as Spark's are.

    Raises:
        DataError: There are none, one cannot be read, or is of a foreign format.
    """
    check_named(source)
    path = Path(source)
    if is_stdin(path):
        raise DataError("users are not read from standard input", "give a file: a run that is continued reads it again")
    if path.is_dir():
        paths = files_in(path)
    elif has_magic(source) and not path.exists():
        paths = files_matching(source)
    else:
        paths = [path]
    if not paths:
        raise DataError(
            f"no file of users at {source}", "give Parquet, CSV or JSON Lines: a file, a folder or a pattern"
        )
    files = [_classified(path) for path in paths]
    return [file for file in files if not file.is_empty] or files[:1]


def _classified(path: Path) -> InputFile:
    if is_parquet_file(path):
        return InputFile(path, PARQUET)
    head = next(unpacked(path, HEAD_BYTES), b"")
    check_foreign(path, head)
    is_lines = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    kind = JSON if is_json(path) or is_lines else TEXT
    return InputFile(path, kind, kind == JSON and not head)


def input_fingerprint(files: Sequence[InputFile]) -> str:
    """A sha256 over the contents of the files, in their order; names and places do not count.

    Raises:
        DataError: One cannot be read.
    """
    digests = []
    for file in files:
        try:
            digests.append(sha256_of(file.path))
        except OSError as error:
            raise unreadable(file.path, error) from error
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def read_ids(path: Path) -> tuple[str, ...]:
    """The item ids in a text file, one a line, each once; blank lines are left out.

    Raises:
        DataError: It cannot be read, is no text, or holds none.
    """
    content = content_of(path)
    if content.startswith(PARQUET_MAGIC):
        raise DataError(f"{path} is a Parquet file", "write one item id a line, as text")
    try:
        lines = as_utf8(path, content).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    ids = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise DataError(f"{path} holds no item ids", "write one a line")
    return ids
