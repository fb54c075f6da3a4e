"""The feedback log on disk: a SQLite database of bounded size, which several servers may write and anyone may read."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from delrec_lite.errors import DelrecError, StorageError
from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.feedback.records import ACCEPTED, DUPLICATE, NOT_SERVED, UNKNOWN_REQUEST, Event, Served

APPLICATION, SCHEMA = 0x64_65_6C_72, 1  # "delr" in the file's header
_TABLES = """
CREATE TABLE bundles (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE, catalogue INTEGER);
CREATE TABLE served (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, request TEXT NOT NULL UNIQUE, who TEXT,
    bundle INTEGER NOT NULL REFERENCES bundles, arm TEXT NOT NULL, basis TEXT NOT NULL,
    length INTEGER NOT NULL, items TEXT NOT NULL, history TEXT);
CREATE TABLE events (
    served INTEGER NOT NULL, item TEXT NOT NULL, event TEXT NOT NULL, rank INTEGER NOT NULL,
    value REAL, time REAL NOT NULL, PRIMARY KEY (served, item, event)) WITHOUT ROWID;
"""
_INSERT = """
INSERT INTO served (time, request, who, bundle, arm, basis, length, items, history) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (request) DO UPDATE SET time = excluded.time, who = excluded.who, bundle = excluded.bundle,
    arm = excluded.arm, basis = excluded.basis, length = excluded.length, items = excluded.items,
    history = excluded.history
"""
# Seconds to wait for another process that writes the same log.
_PATIENCE = 5.0
# Share of the lists that go at once when the log is full.
_PART = 50
# After as many transactions the rows are counted again: other processes write too.
_RECOUNT = 256


class NotStored(DelrecError):
    """The log could not be written.

    Args:
        reason: Of the database.
        full: Whether the disk is full.
    """

    exit_code = StorageError.exit_code

    def __init__(self, reason: str, full: bool) -> None:
        what = "the disk of the feedback log is full" if full else f"the feedback log cannot be written: {reason}"
        super().__init__(what, "send it again later")
        self.full = full


class Store:
    """The database; to be used by one thread at a time.

    Args:
        path: The file; created where there is none.
        limit: The oldest lists go, with their events, when it is larger.

    Raises:
        StorageError: The file is something else, or cannot be written.
    """

    def __init__(self, path: Path, limit: Limit) -> None:
        self.path, self._limit = path, limit
        self._database: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._bundles: dict[str, int] = {}
        self._rows = self._transactions = 0
        self._was_full = False
        try:
            self._open()
        except NotStored as error:
            raise StorageError(f"{path}: {error.message}", "choose another --feedback-log") from error

    def write(self, entries: Sequence[Served | Sequence[Event]]) -> list[list[str]]:
        """Write lists and events in their order, all or nothing; when this returns they are on the disk.

        Returns:
            For each entry that is a sequence of events, what became of each of them.

        Raises:
            NotStored: Nothing of it was written.
        """
        try:
            self._check_place()
            try:
                outcomes = self._transaction(entries)
            except sqlite3.Error as error:
                if not _is_full(error) or not self._limit.bytes:
                    raise
                self._shrink()  # full by our own limit, unless the disk is
                outcomes = self._transaction(entries)
            self._was_full = False
            return outcomes
        except NotStored as error:  # while a disk is full, SQLite cannot open the file again and says no more than that
            raise NotStored(error.message, error.full or self._was_full) from error
        except sqlite3.Error as error:
            self._forget()
            self._was_full = _is_full(error)
            raise NotStored(str(error), self._was_full) from error
        except OSError as error:
            self._forget()
            raise NotStored(error.strerror or str(error), False) from error

    def close(self) -> None:
        """Close the file; what was written stays readable."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = None

    def bytes(self) -> int:
        """Bytes on disk, with what SQLite keeps beside the file."""
        return sum(_size(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal"))

    def _open(self) -> None:
        """Open the file, and make the tables in a new one."""
        if self.path.is_dir():
            raise StorageError(f"{self.path} is a folder", "name a file")
        try:
            database = sqlite3.connect(
                self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            try:
                self._set_up(database)
            except BaseException:
                database.close()
                raise
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise StorageError(
                    f"{self.path} is no feedback log: {error}", "choose another --feedback-log"
                ) from error
            raise NotStored(str(error), _is_full(error)) from error
        self._database = database
        status = self.path.stat()
        self._file = status.st_dev, status.st_ino
        self._bundles, self._rows = {}, self._count() if self._limit.rows else 0

    def _set_up(self, database: sqlite3.Connection) -> None:
        check_header(database, self.path, new=True)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
        database.execute("PRAGMA secure_delete = FAST")
        page = int(database.execute("PRAGMA page_size").fetchone()[0])
        if most := self._limit.pages(page):
            database.execute(f"PRAGMA max_page_count = {most}")
            database.execute(f"PRAGMA wal_autocheckpoint = {max(10, min(1000, most // 20))}")
        database.execute("BEGIN IMMEDIATE")
        try:
            if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {SCHEMA}")
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def _check_place(self) -> None:
        """Open the file again where it was lost, removed or replaced; refuse while its WAL is too large."""
        try:
            status = self.path.stat()
            same = (status.st_dev, status.st_ino) == self._file
        except FileNotFoundError:
            same = False
        if self._database is None or not same:
            self._save_moved()
            try:
                self._open()
            except StorageError as error:
                raise NotStored(error.message, False) from error
        most = self._limit.unmoved
        if most is not None and _size(Path(f"{self.path}-wal")) > most:  # a reader that never ends holds it
            with suppress(sqlite3.Error):
                self._opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if _size(Path(f"{self.path}-wal")) > most:
                raise NotStored("someone has been reading it for too long", False)

    def _save_moved(self) -> None:
        """Close a file that was moved away; SQLite itself would leave behind what is not in it yet."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    def _transaction(self, entries: Sequence[Served | Sequence[Event]]) -> list[list[str]]:
        database, outcomes, added = self._opened, [], 0
        database.execute("BEGIN IMMEDIATE")
        try:
            self._make_room()
            for entry in entries:
                if isinstance(entry, Served):
                    self._add_list(entry)
                    added += 1
                else:
                    outcomes.append([self._add_event(event) for event in entry])
                    added += outcomes[-1].count(ACCEPTED)
            if self._limit.rows:
                self._rows += added
                self._transactions += 1
                self._drop_rows(self._limit.rows)
            database.execute("COMMIT")
        except BaseException:
            self._bundles.clear()
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        return outcomes

    def _add_list(self, served: Served) -> None:
        items = json.dumps([[item, round(score, 6)] for item, score in served.items], ensure_ascii=False)
        history = None if served.history is None else json.dumps(served.history, ensure_ascii=False)
        bundle = self._bundle(served)
        row = (served.time, served.request, served.who, bundle, served.arm, served.basis)
        self._opened.execute(_INSERT, (*row, len(served.items), items, history))

    def _bundle(self, served: Served) -> int:
        if served.bundle not in self._bundles:
            self._opened.execute(
                "INSERT INTO bundles (label, catalogue) VALUES (?, ?) ON CONFLICT (label) DO UPDATE "
                "SET catalogue = coalesce(excluded.catalogue, catalogue)",
                (served.bundle, served.catalogue),
            )
            found = self._opened.execute("SELECT id FROM bundles WHERE label = ?", (served.bundle,)).fetchone()[0]
            if served.catalogue is None:
                return int(found)  # a later list may know it
            self._bundles[served.bundle] = int(found)
        return self._bundles[served.bundle]

    def _add_event(self, event: Event) -> str:
        found = self._opened.execute("SELECT id, items FROM served WHERE request = ?", (event.request,)).fetchone()
        if found is None:
            return UNKNOWN_REQUEST
        served, items = found[0], [item for item, _ in json.loads(found[1])]
        item = event.item if event.item in items else event.item.removeprefix("id:")
        if item not in items:
            return NOT_SERVED
        row = (served, item, event.event, items.index(item) + 1, event.value, event.time)
        added = self._opened.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", row).rowcount
        return ACCEPTED if added else DUPLICATE

    def _make_room(self) -> None:
        """Drop the oldest lists where little of the allowed bytes is left."""
        page, used, free = (self._number(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
        most = self._limit.pages(page)
        while most and used - free > 0.95 * most and self._drop_oldest(_PART):
            free = self._number("PRAGMA freelist_count")

    def _shrink(self) -> None:
        """Drop the oldest lists, in a transaction of their own."""
        self._opened.execute("BEGIN IMMEDIATE")
        try:
            self._drop_oldest(_PART // 5)
            self._opened.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._opened.execute("ROLLBACK")
            raise

    def _drop_rows(self, most: int) -> None:
        if self._rows <= most and self._transactions % _RECOUNT:
            return
        self._rows = self._count()
        while self._rows > most and self._drop_oldest(_PART):
            self._rows = self._count()

    def _drop_oldest(self, part: int) -> bool:
        """Drop one of so many parts of the lists, the oldest, with their events; whether there were any."""
        first, last = self._opened.execute("SELECT min(id), max(id) FROM served").fetchone()
        if first is None:
            return False
        end = first + (last - first) // part
        self._opened.execute("DELETE FROM events WHERE served <= ?", (end,))
        self._opened.execute("DELETE FROM served WHERE id <= ?", (end,))
        return True

    def _count(self) -> int:
        return sum(self._number(f"SELECT count(*) FROM {table}") for table in ("served", "events"))

    def _number(self, query: str) -> int:
        return int(self._opened.execute(query).fetchone()[0])

    def _forget(self) -> None:
        """After an error the file is opened again: the connection may be of no use."""
        self.close()


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The log, for queries alone; servers may go on writing it.

    Raises:
        StorageError: There is none, or it cannot be read.
    """
    if not path.is_file():
        raise StorageError(f"there is no feedback log at {path}", "`delrec-lite serve --feedback-log FILE` writes one")
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        check_header(database, path)
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be read: {error}", "check the file and its permissions") from error
    return database


def check_header(database: sqlite3.Connection, path: Path, new: bool = False) -> None:
    """Refuse a database of another program or schema.

    Args:
        database: Opened.
        path: For the error.
        new: Whether an empty database is fine.

    Raises:
        StorageError: It is not a feedback log.
    """
    application, schema, tables = (
        database.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if new and not tables and not application:
        return
    if application != APPLICATION:
        raise StorageError(f"{path} is a database, but no feedback log", "choose another file")
    if schema != SCHEMA:
        raise StorageError(
            f"{path} is a feedback log of version {schema}; this program reads {SCHEMA}", "name a new file"
        )


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
