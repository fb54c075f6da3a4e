"""The feedback log on disk: what is acknowledged is there, its size is bounded, and nobody else's file is touched."""

import json
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.server.feedback import log as module
from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.feedback.log import FeedbackLog, QueueIsFull
from delrec_lite.server.feedback.records import ACCEPTED, DUPLICATE, NOT_SERVED, UNKNOWN_REQUEST, Event
from delrec_lite.server.feedback.store import APPLICATION, NotStored, Store, open_for_reading
from tests.feedback import click, served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


def rows(path, query="SELECT request FROM served ORDER BY id"):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_lists_and_events_are_on_the_disk_once_they_are_acknowledged(path):
    log = FeedbackLog(path)
    log.serve(served("r1"))
    events = [click("r1", "i2"), click("r1", "i2"), click("r1", "id:i1"), click("r1", "i9"), click("no", "i1")]
    outcomes = log.record(events).result(10)
    assert outcomes == [ACCEPTED, DUPLICATE, ACCEPTED, NOT_SERVED, UNKNOWN_REQUEST]
    # Read as after a crash of the server, which never closed its file.
    assert rows(path, "SELECT item, event, rank FROM events ORDER BY rank") == [("i1", "click", 1), ("i2", "click", 2)]
    ((items, basis, bundle),) = rows(path, "SELECT items, basis, label FROM served JOIN bundles ON bundle = bundles.id")
    assert json.loads(items) == [["i1", 3.0], ["i2", 2.0], ["i3", 1.0]]
    assert (basis, bundle) == ("model", "tiny@1")
    log.close()
    log = FeedbackLog(path)
    assert log.record([click("r1", "i2")]).result(10) == [DUPLICATE], "the same event again, after a new start"
    log.close()


def test_a_request_that_is_sent_again_counts_once_and_keeps_its_events(path):
    store = Store(path, Limit())
    store.write([served("r1", ("a", "b")), [click("r1", "b")], served("r1", ("c", "a"))])
    assert rows(path) == [("r1",)]
    assert rows(path, "SELECT item, rank FROM events") == [("b", 2)]
    assert store.write([[click("r1", "c"), click("r1", "b")]]) == [[ACCEPTED, NOT_SERVED]]
    store.close()


def test_histories_are_kept_only_where_they_are_given(path):
    store = Store(path, Limit())
    store.write([served("r1"), served("r2", history=["Red River (1950)"])])
    assert rows(path, "SELECT history FROM served ORDER BY id") == [(None,), ('["Red River (1950)"]',)]
    store.close()


@pytest.mark.parametrize("limit", ["20 rows", "20", "1MB"])
def test_the_oldest_lists_go_first_and_their_events_with_them(path, limit):
    limit = Limit.parse(limit)
    store = Store(path, limit)
    items = [f"item {n:060}" for n in range(200 if limit.bytes else 3)]
    for n in range(150):
        store.write([served(f"r{n}", items), [click(f"r{n}", items[0])]])
        assert limit.rows is None or sum(len(rows(path, f"SELECT 1 FROM {t}")) for t in ("served", "events")) <= 20
        assert limit.bytes is None or store.bytes() <= limit.bytes
    kept = [request for (request,) in rows(path)]
    assert kept == [f"r{n}" for n in range(150 - len(kept), 150)], "the newest, without a gap"
    assert 5 <= len(kept) < 150
    assert rows(path, "SELECT count(*) FROM events WHERE served NOT IN (SELECT id FROM served)") == [(0,)]
    store.close()


@pytest.mark.parametrize(("text", "limit"), [("1GB", 10**9), ("1.5 MiB", 1572864), ("2tb", 2 * 10**12)])
def test_a_limit_in_bytes(text, limit):
    assert Limit.parse(text) == Limit(limit, None)


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "1e9", "10KB", "0", "5 rows", "1.5", "nan", "١GB", "9" * 30, "1 PB"]
)
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(UsageError, match="feedback limit is"):
        Limit.parse(text)


def test_another_file_is_refused_and_left_alone(path, tmp_path):
    path.write_text("important notes, which are no database at all " * 30)
    with pytest.raises(StorageError, match="is no feedback log"):
        FeedbackLog(path)
    assert path.read_text().startswith("important")
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE mine (a)")
    before = other.read_bytes()
    for opening in (FeedbackLog, open_for_reading):
        with pytest.raises(StorageError, match="no feedback log"):
            opening(other)
    assert other.read_bytes() == before
    with pytest.raises(StorageError, match="is a folder"):
        FeedbackLog(tmp_path)
    with pytest.raises(StorageError, match="unable to open"):
        FeedbackLog(tmp_path / "no folder" / "log.sqlite")
    with closing(sqlite3.connect(path.with_name("newer"))) as database:
        database.executescript(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 2; CREATE TABLE a (b)")
    with pytest.raises(StorageError, match="version 2"):
        FeedbackLog(path.with_name("newer"))


def test_a_log_that_is_moved_away_is_begun_anew(path):
    store = Store(path, Limit())
    store.write([served("r1")])
    path.rename(path.with_suffix(".old"))
    assert store.write([served("r2"), [click("r1", "i1"), click("r2", "i1")]]) == [[UNKNOWN_REQUEST, ACCEPTED]]
    assert rows(path.with_suffix(".old")) == [("r1",)]
    assert rows(path) == [("r2",)]
    store.close()


def test_two_servers_may_write_the_same_log(path):
    stores = [Store(path, Limit()), Store(path, Limit())]

    def write(n):
        for row in range(30):
            stores[n].write([served(f"r{n}-{row}"), [click(f"r{n}-{row}", "i1")]])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(path, "SELECT count(*) FROM events") == [(60,)]
    assert stores[0].write([[click("r1-7", "i1"), click("r1-7", "i2")]]) == [[DUPLICATE, ACCEPTED]]
    for store in stores:
        store.close()


def test_a_reader_that_never_ends_does_not_let_the_log_grow(path):
    limit = Limit.parse("1MB")
    store = Store(path, limit)
    store.write([served("r")])
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM served").fetchall()
        lists = [served(f"r{n}", [f"item {m:060}" for m in range(200)]) for n in range(300)]
        with pytest.raises(NotStored, match="reading it for too long"):
            any(store.write([entry]) for entry in lists)  # one by one
        assert store.bytes() <= limit.bytes
        reader.execute("COMMIT")
    store.write([served("after")])
    store.close()


@pytest.fixture
def broken(path, monkeypatch):
    """A log whose disk fails while ``broken.error`` is set."""
    log = FeedbackLog(path)
    write = Store.write

    def writing(store, entries):
        if log.error:
            raise log.error
        return write(store, entries)

    log.error = None
    monkeypatch.setattr(Store, "write", writing)
    yield log
    log.close()


@pytest.mark.parametrize("error", [NotStored("full", True), NotStored("locked", False), ZeroDivisionError("a mistake")])
def test_while_the_disk_fails_lists_are_dropped_and_events_refused_and_it_is_logged_once(broken, error, caplog):
    broken.error = error
    with caplog.at_level("INFO", "delrec_lite.server"):
        for n in range(3):
            broken.serve(served(f"r{n}"))
            with pytest.raises(NotStored) as raised:
                broken.record([click("r0", "i1")]).result(10)
        assert raised.value.full == getattr(error, "full", False)
        broken.error = None
        broken.serve(served("r3"))
        assert broken.record([click("r3", "i1"), click("r0", "i1")]).result(10) == [ACCEPTED, UNKNOWN_REQUEST]
    said = [record.message for record in caplog.records if record.message.startswith("{")]
    assert [json.loads(line)["feedback_log"] for line in said] == ["failing", "works again"]
    assert (broken.dropped, broken.written) == ({"disk": 3}, {"list": 1, "event": 1})


def test_a_slow_disk_delays_nobody(path, monkeypatch, caplog):
    monkeypatch.setattr(module, "MOST_WAITING", 20)
    go = threading.Event()
    monkeypatch.setattr(
        Store, "write", lambda store, entries: (go.wait(30), [[ACCEPTED] for e in entries if e == []])[1]
    )
    log = FeedbackLog(path)
    log.record([])
    start = time.monotonic()
    for n in range(30):
        log.serve(served(f"r{n}"))  # each has three items
    assert time.monotonic() - start < 5
    assert log.dropped["queue"] >= 25
    assert log.waiting() <= 20
    with pytest.raises(QueueIsFull):
        log.record([Event("r", f"i{n}", "click", None, 0.0) for n in range(20)])
    assert caplog.text.count("too slow") == 1
    go.set()
    log.close()
    with pytest.raises(QueueIsFull):
        log.record([])


def test_what_waits_is_written_at_the_end(path):
    log = FeedbackLog(path)
    for n in range(50):
        log.serve(served(f"r{n}"))
    log.close()
    assert len(rows(path)) == 50
