"""What a log or an item list may be: a file, a folder or pattern of files, a `datasets` folder, a query."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from delrec_lite.data.batches import ARROW_SUFFIX, BATCH_ROWS, OpenBatches, open_batches
from delrec_lite.data.databases import Query, open_query, parse_query
from delrec_lite.data.sources import DATA_SUFFIXES, NoRowsError, check_named, files_in, files_matching, is_stdin
from delrec_lite.data.tables import Layout
from delrec_lite.errors import DataError

_SUFFIXES = DATA_SUFFIXES | {ARROW_SUFFIX}
# Files that describe a folder of data, beside it.
_ABOUT = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}


@dataclass(frozen=True)
class Location:
    """Where rows come from.

    Attributes:
        text: As the user gave it.
        files: Of a folder or pattern, in the order of their names; or the one file.
        query: Of a database, in place of files.
        is_single: One file that may be read as a whole, a pipe or standard input among them.
    """

    text: str
    files: tuple[Path, ...] = ()
    query: Query | None = None
    is_single: bool = False

    @property
    def path(self) -> Path:
        """For messages."""
        return Path(str(self.query)) if self.query else Path(self.text)

    def opened(
        self,
        layout: Layout,
        expected: Collection[str] = (),
        rows: int = BATCH_ROWS,
        memory: int = 1 << 29,
        copy: Path | None = None,
    ) -> Iterator[OpenBatches]:
        """Its tables, one after another.

        Args:
            layout: See ``open_batches``.
            expected: See ``open_batches``.
            rows: See ``open_batches``.
            memory: See ``open_query``.
            copy: Where the content of a pipe was written to.
        """
        if self.query:
            yield open_query(self.query, rows, memory)
            return
        for path in self.files:
            shown = Path("standard input") if str(path) == "-" else path
            opened = open_batches(copy or path, layout, expected, rows, shown)
            yield opened if self.is_single else replace(opened, read=partial(_read_any, opened.read))

    def bytes(self) -> int:
        """Size of the files; 0 where it is not known."""
        return sum(path.stat().st_size for path in self.files if path.is_file())


def locate(text: str) -> Location:
    """Find what a user named.

    Raises:
        DataError: Nothing is there.
        UsageError: A database without a query.
    """
    if query := parse_query(text):
        return Location(text, query=query)
    check_named(text)
    path = Path(text)
    if path.is_dir():
        return Location(text, tuple(_files_in(path)))
    if any(mark in text for mark in "*?[") and not path.exists():
        files = files_matching(text, _SUFFIXES)
        if not files:
            raise DataError(f"no file matches {text}", "check the pattern; quote it, so that the shell leaves it alone")
        return Location(text, tuple(files))
    if path.suffix == ARROW_SUFFIX and path.is_file():
        return Location(text, (path,))
    return Location(text, (path,), is_single=True)


def is_pipe(location: Location) -> bool:
    """Whether it can be read only once."""
    return location.is_single and (is_stdin(location.files[0]) or not location.files[0].is_file())


def _files_in(folder: Path) -> Sequence[Path]:
    """The files of a folder and of the folders in it; of a ``datasets`` folder those that it lists.

    Raises:
        DataError: There are none, or a ``datasets`` folder of several splits.
    """
    splits = _listed(folder / "dataset_dict.json", "splits")
    if splits:
        if len(splits) > 1:
            raise DataError(f"{folder} holds the splits {', '.join(splits)}", f"name one of them: {folder / splits[0]}")
        return _files_in(folder / splits[0])
    if names := _listed(folder / "state.json", "_data_files"):
        return [folder / name for name in names]
    files = [path for path in files_in(folder, _SUFFIXES) if path.name not in _ABOUT]
    if not files:
        raise DataError(f"{folder} is a folder without files to read", f"it needs {', '.join(sorted(_SUFFIXES))}")
    return files


def _read_any(read: Callable[[Sequence[str], Sequence[str]], Iterator[Any]], *names: Sequence[str]) -> Iterator[Any]:
    """What ``read`` gives; nothing of a file without rows: of several files an hour without events writes one."""
    with suppress(NoRowsError):
        yield from read(*names)


def _listed(path: Path, key: str) -> list[str]:
    """Names that a file of a ``datasets`` folder lists; empty if there is no such file."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[key]
        return [entry["filename"] if isinstance(entry, dict) else str(entry) for entry in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}", "save the data set again") from error
