"""Reads columns of JSON Lines: one object a line, or a JSON list of objects."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.data.sources import NoRowsError
from delrec_lite.errors import DataError

Malformed = list[tuple[int, str]]


def is_json(path: Path) -> bool:
    """Whether a file's name, without the suffix of a compression, says JSON."""
    return any(suffix.lower() in (".jsonl", ".ndjson", ".json") for suffix in path.suffixes[-2:])


class JsonRows:
    """The objects of a JSON text, with the numbers of their lines.

    Args:
        path: For errors.
        text: UTF-8.
        first: Number of its first line.

    Raises:
        DataError: No objects, or a list that is not JSON.
    """

    def __init__(self, path: Path, text: bytes, first: int = 1) -> None:
        self.malformed: Malformed = []
        self._numbers: list[int] = []
        self._objects: list[dict[str, Any]] = []
        for number, parsed in (
            self._list(path, text) if first == 1 and text.lstrip().startswith(b"[") else parsed_lines(text, first)
        ):
            if isinstance(parsed, dict):
                self._numbers.append(number)
                self._objects.append(parsed)
            else:
                self.malformed.append((number, "not a JSON object"))
        if not self._objects and not self.malformed:
            raise NoRowsError(path)
        self.names = list(dict.fromkeys(key for parsed in self._objects for key in parsed))

    def columns(self, names: Sequence[str], lists: Sequence[str]) -> tuple[dict[str, Any], list[int], Malformed]:
        """Arrow columns by name, the row number of each of their records, and number and reason of malformed rows.

        In the columns ``lists`` a cell may be a list of words, as an item's tags: then the whole column has lists.
        Elsewhere a list is malformed.
        """
        cells: dict[str, list[Any]] = {name: [] for name in names}
        numbers, malformed = [], list(self.malformed)
        for number, parsed in zip(self._numbers, self._objects, strict=True):
            row = {name: cell_text(parsed.get(name), name in lists) for name in names}
            if wrong := [name for name, cell in row.items() if cell is None]:
                malformed.append((number, f"{wrong[0]} is neither text nor a number"))
                continue
            numbers.append(number)
            for name, cell in row.items():
                cells[name].append(None if cell == "" else cell)
        return {name: _column(column) for name, column in cells.items()}, numbers, malformed

    @staticmethod
    def _list(path: Path, text: bytes) -> Iterator[tuple[int, Any]]:
        try:
            yield from enumerate(json.loads(text), start=1)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path} begins like a JSON list but is none: {error}", "write one object a line"
            ) from error


def parsed_lines(text: bytes, first: int) -> Iterator[tuple[int, Any]]:
    """Number and content of each line that is not empty, the first of which is ``first``; None where it is no JSON."""
    for number, line in enumerate(text.split(b"\n"), start=first):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _column(cells: list[Any]) -> Any:
    """An Arrow column of texts; of lists of texts where a cell is a list."""
    pa = arrow()
    if not any(isinstance(cell, tuple) for cell in cells):
        return pa.chunked_array([pa.array(cells, pa.string())])
    lists = [cell if cell is None or isinstance(cell, tuple) else (cell,) for cell in cells]
    return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])


def cell_text(value: Any, may_be_list: bool) -> "str | tuple[str, ...] | None":
    """A value as text, or a list's parts; empty for null and nan; None if it has no text."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if may_be_list and isinstance(value, list):
        parts = [cell_text(part, may_be_list) for part in value]
        if None not in parts:
            return tuple(text for part in parts for text in ([part] if isinstance(part, str) else part or ()) if text)
    return None
