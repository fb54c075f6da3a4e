"""The work of a run: its users in parts of equal size, each a Parquet file, and the rows that cannot be scored."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.data.badrows import BadRows, Policy
from delrec_lite.data.engine import connect, engine_errors
from delrec_lite.data.packages import arrow
from delrec_lite.errors import DataError
from delrec_lite.machine import cores_allowed
from delrec_lite.scoring.columns import Names
from delrec_lite.scoring.inputs import InputFile
from delrec_lite.scoring.scorer import HISTORY, USER
from delrec_lite.scoring.users import User, Users

REJECTED = "rejected.parquet"
MEMORY = 512 * 10**6
# Each thread of DuckDB needs memory of its own.
MOST_THREADS = 4


def part_name(number: int) -> str:
    """The file of a part, of users and of recommendations alike."""
    return f"part-{number:05d}.parquet"


@dataclass(frozen=True)
class Counts:
    """What an input holds.

    Attributes:
        users: To be scored.
        parts: Into which they are divided.
        rejected: Rows that are left out.
        without_history: Users whose history is empty: they get the most popular items.
        unknown: Items of histories that the catalogue lacks.
    """

    users: int
    parts: int
    rejected: int
    without_history: int
    unknown: int

    def dump(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


def write_work(
    files: Sequence[InputFile],
    names: Names,
    known: Collection[str],
    folder: Path,
    part_users: int,
    policy: Policy,
    console: Console,
) -> Counts:
    """Write the parts of an input, and ``rejected.parquet`` if rows are left out.

    Args:
        files: The input.
        names: Of its columns.
        known: Item ids of the catalogue.
        folder: Exists and is empty.
        part_users: Users of a part.
        policy: Of rows that cannot be scored.
        console: Shows how far it is.

    Raises:
        DataError: A file cannot be read or lacks a column; with ``refuse``: a row cannot be scored; there are no users.
        StorageError: The disk is full.
    """
    bad = BadRows(policy)
    users = parts = empty = unknown = 0
    threads = min(MOST_THREADS, cores_allowed())
    spilled = folder / "database"
    with engine_errors(folder, "score fewer users in one call"), connect(spilled, MEMORY, threads) as connection:
        source = Users(files, names, known, connection)
        source.read(console)
        if policy == "refuse":
            source.check(bad)
        stream = iter(source)
        while of_part := list(islice(stream, part_users)):
            _write(folder / part_name(parts), _table(of_part, source.id_type))
            parts += 1
            users += len(of_part)
            empty += sum(not user.items for user in of_part)
            unknown += sum(user.unknown for user in of_part)
        rejected = source.check(bad)
        for malformed in bad.files:
            console.say(f"  left out: {malformed}")
        if not users:
            left_out = f"; left out: {bad.files[0]}" if bad.files else ""
            raise DataError(f"{files[0].path} holds no user to score{left_out}", "check that it is the right file")
        if rejected:
            _write_all(folder / REJECTED, source.bad_batches())
    return Counts(users, parts, rejected, empty, unknown)


def _table(users: Sequence[User], id_type: Any) -> Any:
    pa = arrow()
    ids = pa.array([user.id for user in users], pa.string())
    histories = pa.array([user.items for user in users], pa.list_(pa.string()))
    return pa.table({USER: ids.cast(id_type), HISTORY: histories})


def _write(path: Path, table: Any) -> None:
    _write_all(path, [table])


def _write_all(path: Path, tables: Iterable[Any]) -> None:
    pa, rest = arrow(), iter(tables)
    first = next(rest)
    with path.open("wb") as file, pa.parquet.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in rest:
            writer.write_table(table)
