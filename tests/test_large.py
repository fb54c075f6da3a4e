"""Preparing a log through files gives what preparing it in memory gives, whatever the log and wherever it lies."""

import gzip
import json
import os
import sqlite3
import subprocess
import sys
import types
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.data import batches, blocks, large, memory, sequences
from delrec_lite.data.databases import parse_query
from delrec_lite.data.store import load_candidates, load_dataset, load_settings
from delrec_lite.errors import (
    DataError,
    DelrecError,
    FetchError,
    MissingPackageError,
    OutOfMemoryError,
    StorageError,
    UsageError,
)

ITEMS = "item_id,title,brand\n" + "".join(f'{{0}}{n},"Lamp {n % 30}, large",b{n % 3}\n' for n in range(60))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Small parts, so that a small log has many of them."""
    monkeypatch.setattr(sequences, "BLOCK", 100)
    monkeypatch.setattr(sequences.blocks_of, "__defaults__", (100,))
    monkeypatch.setattr(sequences.joined_blocks, "__defaults__", (100,))
    monkeypatch.setattr(blocks.text_blocks, "__defaults__", ("utf-8", 500))
    monkeypatch.setattr(large, "BATCH_ROWS", 64)
    monkeypatch.setattr("delrec_lite.data.log_table.COMMITTED_ROWS", 200)
    monkeypatch.setattr("delrec_lite.data.quotes.LONGEST", 100)
    monkeypatch.setattr(batches.open_batches, "__defaults__", ((), 64, None))


def rows_of(prefix="", count=900, times=range(10**6, 10**6 + 200), seed=4):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 60, count), (rng.random(count) ** 2 * 60).astype(int)
    chosen = rng.choice(np.array(list(times), dtype=object), count)
    rows = [(f"{prefix}{u}", f"{prefix}{i}", t) for u, i, t in zip(users, items, chosen, strict=True)]
    return [*rows, *rows[:30]]


def written(folder, rows, prefix="", name="log.csv", head="user_id,item_id,timestamp", separator=","):
    text = "".join(f"{separator.join(map(str, row))}\n" for row in [head.split(","), *rows])
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "items.csv").write_text(ITEMS.format(prefix), encoding="utf-8")
    return folder / name


def prepare(log, folder, *options, items=None):
    items = items or Path(str(folder / "items.csv"))
    command = ["prepare", "shop", "--interactions", str(log), "--items", str(items), "--json", *map(str, options)]
    done = CliRunner().invoke(app, [*command, "--candidates", "5"])
    if done.exit_code == 0:
        return json.loads(done.stdout)
    error = done.exception
    assert isinstance(error, DelrecError), (done.output, error)
    return error


def both(log, folder, *options):
    """Prepared in memory and through files."""
    whole = prepare(log, folder, "--out", folder / "whole", *options)
    parts = prepare(log, folder, "--out", folder / "parts", "--memory", "500MB", *options)
    return whole, parts


def assert_equal(folder, whole, parts):
    assert isinstance(whole, dict), whole
    assert isinstance(parts, dict), parts
    assert {**parts, "folder": ""} == {**whole, "folder": ""}
    for name in ("users.json", "catalog.json", "columns.json"):
        if not (folder / "whole" / name).exists():
            continue
        assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    about = [json.loads((folder / name / "dataset.json").read_text()) for name in ("whole", "parts")]
    assert about[1].pop("candidates") == {s: c.fingerprint for s, c in load_candidates(folder / "whole").items()}
    assert {**about[1], "schema": 1} == about[0]
    first, second = load_dataset(folder / "whole"), load_dataset(folder / "parts")
    assert all((a == b).all() for a, b in zip(first.sequences, second.sequences, strict=True))
    for split, sets in load_candidates(folder / "parts").items():
        assert (sets.items == load_candidates(folder / "whole")[split].items).all()
        a, b = getattr(first, split)(), getattr(second, split)()
        assert (a.targets == b.targets).all()
        assert all((x == y).all() for x, y in zip(a.histories, b.histories, strict=True))
    assert [s.tolist() for s in first.train()] == [s.tolist() for s in second.train()]
    assert load_settings(folder / "parts") == load_settings(folder / "whole")
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


DATES = [f"{datetime(2024, 1, 1) + timedelta(hours=n):%Y-%m-%dT%H:%M:%S}" for n in range(200)]


@pytest.mark.parametrize("prefix", ["", "x", "00", "٣"])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--split", "chronological"),
        ("--k-core", 8, "--duplicates", "first"),
        ("--duplicates", "last", "--no-repeats"),
        ("--duplicates", "consecutive", "--test-users", 10, "--text-columns", "brand", "--item-columns", "brand"),
    ],
)
def test_both_roads_give_the_same_data_set(tmp_path, prefix, options):
    assert_equal(tmp_path, *both(written(tmp_path, rows_of(prefix), prefix), tmp_path, *options))


def test_users_whose_ids_are_numbers_first_and_text_later_are_the_same(tmp_path):
    rows = [(user if n < 500 else f"x{user}", *row) for n, (user, *row) in enumerate(rows_of())]
    assert_equal(tmp_path, *both(written(tmp_path, rows), tmp_path))


@pytest.mark.parametrize(
    "times",
    [
        [1, 10**10, 10**13, 7.5],
        [10**18 + n for n in range(40)],
        [*DATES, *range(10**9, 10**9 + 50)],
        ["2024-01-01T00:00:00Z", "2024-01-01 00:00:00.000000003", "2024-01-01T00:00:00.000000001"],
        ["9999-12-31", "2024-01-01T00:00:00.000000001", "0001-01-01"],
        [-5, -0.0, 0.0, 3],
        ["2024-01-01", "soon"],
        [5],
    ],
)
def test_times_in_several_units_give_the_same_order_and_notes(tmp_path, times):
    log = written(tmp_path, rows_of(times=times))
    assert_equal(tmp_path, *both(log, tmp_path, "--on-bad-row", "drop"))


BAD = [
    ("1", "", "5"),
    ("", "", ""),
    ("NULL", "3", "5"),
    ("2", "3"),
    ("2", "3", "4", "5"),
    ("2", "3", "soon"),
    ("x7", "3", "9"),
    ('"2', "3", "9"),
    ("2", '"3"', "9"),
    ("2", "99", "9"),
    ('"4\n4"', "3", "9"),
    ("2.5", "3", "9"),
]


@pytest.mark.parametrize("separator", [",", "\t", "::", ";"])
def test_bad_rows_are_refused_and_dropped_with_the_same_words(tmp_path, separator):
    rows = rows_of()
    for n, row in enumerate(BAD * 2):
        rows.insert(11 + n * 23, row)
    log = written(tmp_path, [*rows, ("", "", "")], separator=separator)
    options = ("--separator", separator)
    whole, parts = both(log, tmp_path, *options)
    assert whole.exit_code == parts.exit_code == DataError.exit_code
    assert (whole.message, whole.hint) == (parts.message, parts.hint)
    assert not (tmp_path / "parts").exists()
    for extra in ((), ("--keep-na",)):
        assert_equal(tmp_path, *both(log, tmp_path, *options, "--on-bad-row", "drop", *extra))


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n").encode("utf-16"), lambda t: gzip.compress(t)])
def test_other_codings_and_line_ends(tmp_path, change):
    log = written(tmp_path, rows_of("é"), "é")
    text = log.read_text(encoding="utf-8")
    try:
        log.write_bytes(change(text))
    except TypeError:
        log.write_bytes(change(text.encode()))
    assert_equal(tmp_path, *both(log, tmp_path))


def test_json_lines_and_a_json_list(tmp_path):
    written(tmp_path, [])
    rows = [{"user_id": int(u), "item_id": i, "timestamp": int(t)} for u, i, t in rows_of()]
    lines = [json.dumps(row) for row in rows]
    lines[40:40] = ["{broken", "", '{"user_id": 1}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "log.json").write_text(json.dumps(rows))
    for name in ("log.jsonl", "log.json"):
        assert_equal(tmp_path, *both(tmp_path / name, tmp_path, "--on-bad-row", "drop"))
    done = prepare(tmp_path / "log.jsonl", tmp_path, "--columns", "time=when", "--memory", "1GB")
    assert "has no column 'when'" in done.message + done.hint


def parquet(folder, rows, **kinds):
    columns = {"user_id": [int(r[0]) for r in rows], "item_id": [r[1] for r in rows], "timestamp": [r[2] for r in rows]}
    table = pyarrow.table({n: pyarrow.array(values, kinds.get(n)) for n, values in columns.items()})
    written(folder, [])
    return table


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"user_id": pyarrow.float64()},
        {"timestamp": pyarrow.timestamp("ns")},
        {"timestamp": pyarrow.float32()},
    ],
)
def test_parquet_of_several_types(tmp_path, kinds):
    table = parquet(tmp_path, rows_of(), **kinds)
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet", row_group_size=100)
    assert_equal(tmp_path, *both(tmp_path / "log.parquet", tmp_path))


def test_times_beyond_int64(tmp_path):
    rows = [(user, item, time + 2**63) for user, item, time in rows_of()]
    table = parquet(tmp_path, rows, timestamp=pyarrow.uint64())
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    assert_equal(tmp_path, *both(tmp_path / "log.parquet", tmp_path))


def sources(folder):
    """The same log in every place that a log may lie in."""
    table = parquet(folder, rows_of())
    (folder / "parts-of-log" / "day=1").mkdir(parents=True)
    pyarrow.parquet.write_table(table.slice(0, 500), folder / "parts-of-log" / "day=1" / "a.parquet")
    pyarrow.parquet.write_table(table.slice(500), folder / "parts-of-log" / "day=2.parquet")
    (folder / "parts-of-log" / "_SUCCESS").touch()
    (folder / "saved" / "train").mkdir(parents=True)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    state = {"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}]}
    (folder / "saved" / "train" / "state.json").write_text(json.dumps(state))
    for name, part in (("data-0.arrow", table.slice(0, 300)), ("data-1.arrow", table.slice(300))):
        with pyarrow.ipc.new_stream(folder / "saved" / "train" / name, table.schema) as writer:
            writer.write_table(part, max_chunksize=7)
    with sqlite3.connect(folder / "shop.db") as lite:
        lite.execute("CREATE TABLE orders (u, item_id, at)")
        rows = list(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))
        lite.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
        for name in ("order", "my orders"):
            lite.execute(f'CREATE TABLE "{name}" AS SELECT u AS user_id, item_id, at AS timestamp FROM orders')
    with duckdb.connect(str(folder / "shop.duckdb")) as duck:
        duck.from_arrow(table).create("orders")
    pyarrow.parquet.write_table(table, folder / "whole.parquet")
    for number, part in enumerate((table.slice(0, 400), table.slice(400))):
        (spark := folder / "hours" / f"{number}.parquet").mkdir(parents=True)
        pyarrow.parquet.write_table(part, spark / "part-0.snappy.parquet")
        (spark / "_SUCCESS").touch()
    (folder / "hours" / "quiet.csv").write_text("user_id,item_id,timestamp\n")
    (folder / "hours" / "quiet.jsonl").touch()
    return [
        folder / "hours",
        f"{folder}/hours/*",
        f"sqlite:{folder}/shop.db?order",
        f'sqlite:{folder}/shop.db?"my orders"',
        f'sqlite:{folder}/shop.db?-- all of them\nSELECT * FROM main."order"',
        folder / "parts-of-log",
        f"{folder}/parts-of-log/**/*.parquet",
        folder / "saved",
        folder / "saved" / "train",
        f"sqlite:{folder}/shop.db?SELECT u AS user_id, item_id, at AS timestamp FROM orders",
        f"duckdb:{folder}/shop.duckdb?orders",
        f"DuckDB:{folder}/shop.duckdb? select * from orders where item_id != '?';",
    ]


def test_every_source_gives_the_same_data_set(tmp_path):
    places = sources(tmp_path)
    expected = prepare(tmp_path / "whole.parquet", tmp_path, "--out", tmp_path / "whole")["fingerprint"]
    for number, place in enumerate(places):
        prepared = prepare(place, tmp_path, "--out", tmp_path / f"out-{number}")
        assert isinstance(prepared, dict), (place, prepared)
        assert prepared["fingerprint"] == expected, place
    titles = f"duckdb:{tmp_path}/items.duckdb?SELECT * FROM items"
    with duckdb.connect(str(tmp_path / "items.duckdb")) as duck:
        duck.execute(f"CREATE TABLE items AS SELECT * FROM read_csv('{tmp_path}/items.csv', all_varchar=true)")
    options = ("--text-columns", "brand", "--out", tmp_path / "described")
    described = prepare(tmp_path / "whole.parquet", tmp_path, *options, items=titles)
    assert load_dataset(tmp_path / "described").catalog.texts[0] == "b0", described
    pipe = [sys.executable, "-m", "delrec_lite", "prepare", "shop", "--interactions", "-", "--memory", "1GB"]
    pipe += ["--items", str(tmp_path / "items.csv"), "--out", str(tmp_path / "piped"), "--candidates", "5"]
    content = (tmp_path / "whole.parquet").read_bytes()
    root = str(Path(__file__).parent.parent)
    subprocess.run(pipe, input=content, check=True, env={**os.environ, "PYTHONPATH": root}, capture_output=True)
    assert load_dataset(tmp_path / "piped").fingerprint == expected


@pytest.mark.parametrize(
    ("place", "code", "says"),
    [
        ("sqlite:{0}/shop.db", UsageError, "sqlite: needs a database and a query"),
        ("sqlite:{0}/none.db?orders", DataError, "no file at"),
        ("sqlite:{0}/shop.db?SELECT absent FROM orders", DataError, "no such column: absent"),
        ("sqlite:{0}/shop.db?orders", DataError, "has no column 'user_id'"),
        (
            "sqlite:{0}/shop.db?SELECT user_id, user_id, item_id, 1 AS timestamp FROM 'order'",
            DataError,
            "several columns",
        ),
        ("duckdb:{0}/items.csv?orders", DataError, "cannot read duckdb:"),
        ("duckdb:{0}/shop.db?orders", DataError, "is an SQLite database"),
        ("duckdb:{0}/shop.duckdb?SELECT * FROM absent", DataError, "absent"),
        (
            "duckdb:{0}/shop.duckdb?SELECT [1] AS user_id, item_id, timestamp FROM orders",
            DataError,
            "write them as text",
        ),
        ("{0}/none-*.csv", DataError, "no file matches"),
        ("https://example.org/log.csv", DataError, "https:// is not read here"),
        ("mysql://shop?orders", DataError, "mysql:// is not read here"),
        (" ", DataError, "without a name"),
        ("{0}/twice.parquet", DataError, "several columns 'user_id'"),
        ("{0}/empty", DataError, "without files to read"),
        ("{0}/absent.csv", DataError, "no file at"),
        ("{0}/damaged", DataError, "a.parquet"),
    ],
)
def test_places_that_cannot_be_read_are_one_clear_error(tmp_path, place, code, says):
    sources(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "damaged" / "a.parquet").write_bytes(whole[:1000] + b"\0" * 400 + whole[1400:])
    names = ["user_id", "user_id", "item_id", "timestamp"]
    twice = pyarrow.Table.from_arrays([pyarrow.array([1])] * 4, names)
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    before = sorted(tmp_path.iterdir())
    done = prepare(place.format(tmp_path), tmp_path, "--memory", "1GB", "--out", tmp_path / "out")
    assert done.exit_code == code.exit_code, done
    assert says in done.message + done.hint
    assert sorted(path for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == before


def test_postgres_is_asked_by_psycopg_and_a_database_that_is_down_is_one_line(tmp_path, monkeypatch):
    written(tmp_path, [])
    place = "postgres://me:secret@127.0.0.1:1/shop?sslmode=disable?SELECT user_id, item_id, timestamp FROM orders"
    query = parse_query(place)
    assert query.place == "postgresql://me:secret@127.0.0.1:1/shop?sslmode=disable"
    assert "secret" not in str(query)
    for named in (
        "postgres:host=db password=secret?orders",
        "postgres:host=db password = 'sec ret'?orders",
        "postgres://me:se@secret@host/shop?orders",
        "postgres://host/shop?password=secret&sslmode=require?orders",
    ):
        assert "secret" not in str(parse_query(named))
        assert "ret'" not in str(parse_query(named))
    monkeypatch.setitem(sys.modules, "psycopg", None)
    done = prepare(place, tmp_path)
    assert done.exit_code == MissingPackageError.exit_code
    assert 'pip install "psycopg[binary]"' in done.message + done.hint
    rows = rows_of()
    expected = prepare(written(tmp_path, rows), tmp_path, "--out", tmp_path / "whole")["fingerprint"]

    class Failure(Exception):
        pass

    class Cursor:
        description = [("user_id",), ("item_id",), ("timestamp",)]
        left = list(rows)

        def execute(self, statement):
            assert statement.startswith("SELECT user_id")

        def fetchmany(self, count):
            taken, self.left = self.left[:50], self.left[50:]
            return taken

    connection = types.SimpleNamespace(cursor=lambda name: Cursor(), close=lambda: None)
    psycopg = types.SimpleNamespace(Error=Failure, connect=lambda place: connection)
    monkeypatch.setitem(sys.modules, "psycopg", psycopg)
    assert prepare(place, tmp_path, "--out", tmp_path / "out")["fingerprint"] == expected

    def refuse(place):
        raise Failure("connection refused\nIs the server running?")

    psycopg.connect = refuse
    done = prepare(place, tmp_path, "--out", tmp_path / "other")
    assert done.exit_code == FetchError.exit_code
    assert "connection refused Is the server running?" in done.message + done.hint
    assert not (tmp_path / "other").exists()


def test_sampled_users_alone_have_questions_and_the_seed_draws_them(tmp_path):
    log = written(tmp_path, rows_of())
    prepared = prepare(log, tmp_path, "--out", tmp_path / "a", "--test-users", 10)
    assert prepared["test_users"] == 10
    data = load_dataset(tmp_path / "a")
    assert len(data.asked) == 10
    for split in ("valid", "test"):
        assert set(data.questions(split)[:, 0].tolist()) <= set(data.asked)
    assert load_settings(tmp_path / "a")[1].test_users == 10
    prepare(log, tmp_path, "--out", tmp_path / "b", "--test-users", 10, "--seed", 7)
    assert load_dataset(tmp_path / "b").asked != data.asked
    whole = prepare(log, tmp_path, "--out", tmp_path / "c")
    assert prepare(log, tmp_path, "--out", tmp_path / "d", "--test-users", 10**6)["fingerprint"] == whole["fingerprint"]
    assert not np.array_equal(data.popularity(), 0)
    assert (data.popularity() == load_dataset(tmp_path / "c").popularity()).all()


def test_drawn_users_who_have_no_question_in_a_part_are_the_reason(tmp_path):
    """Each user has days of their own, so that only the last ones are in the test part."""
    log = written(tmp_path, [(user, (7 * user + n) % 60, 100 * user + n) for user in range(20) for n in range(10)])
    options = ("--split", "chronological", "--k-core", 1, "--out", tmp_path / "out")
    done = prepare(log, tmp_path, *options, "--test-users", 1)
    assert "none of the 1 users that were drawn has a question in the test part" in done.message
    assert "--test-users" in done.hint
    assert isinstance(prepare(log, tmp_path, *options), dict)


def test_item_lists_without_a_row_are_one_error(tmp_path):
    log = written(tmp_path, rows_of())
    (tmp_path / "lists").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "lists" / name).write_text("item_id,title\n")
    done = prepare(log, tmp_path, "--out", tmp_path / "out", items=tmp_path / "lists")
    assert "lists holds no rows" in done.message


@pytest.mark.parametrize("name", ["items.npy", "offsets.npy", "candidates-test.npy"])
def test_damaged_arrays_are_refused(tmp_path, name):
    prepare(written(tmp_path, rows_of()), tmp_path, "--out", tmp_path / "a", "--memory", "1GB")
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    for damaged in (bytes(content[:-8]), bytes(content[:-8]) + b"\1\0\0\0\1\0\0\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read|was changed|belongs to"):
            (load_candidates if name.startswith("candidates") else load_dataset)(tmp_path / "a")


@pytest.mark.parametrize(("text", "count"), [("2GB", 2 * 10**9), ("1500 mb", 1500 * 10**6), ("1.5GiB", 3 * 2**29)])
def test_memory_is_written_with_its_unit(text, count):
    assert memory.parse_memory(text) == count


@pytest.mark.parametrize("text", ["2", "much", "-1GB", "10MB", "2 TBB"])
def test_other_amounts_are_refused(tmp_path, text):
    log = written(tmp_path, rows_of())
    assert prepare(log, tmp_path, "--memory", text).exit_code == UsageError.exit_code
    assert prepare("x.csv", tmp_path, "--memory", text).exit_code == UsageError.exit_code


def test_a_log_that_memory_might_not_hold_goes_through_files(tmp_path, monkeypatch):
    log = written(tmp_path, rows_of())
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 10_000)
    done = prepare(log, tmp_path, "--out", tmp_path / "a")
    assert (tmp_path / "a" / "items.npy").exists(), done
    monkeypatch.setitem(sys.modules, "duckdb", None)
    prepare(log, tmp_path, "--out", tmp_path / "b")
    assert (tmp_path / "b" / "sequences.npz").exists()
    done = prepare(log, tmp_path, "--memory", "1GB")
    assert done.exit_code == MissingPackageError.exit_code
    assert "delrec-lite[data]" in done.message + done.hint


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (duckdb.IOException("No space left on device"), StorageError),
        (duckdb.OutOfMemoryException("x"), OutOfMemoryError),
    ],
)
def test_a_full_disk_and_too_little_memory_leave_nothing(tmp_path, monkeypatch, failure, error):
    log = written(tmp_path, rows_of())

    def fail(*_):
        raise failure

    monkeypatch.setattr("delrec_lite.data.log_table.LogTable.number_users", fail)
    done = prepare(log, tmp_path, "--memory", "1GB", "--out", tmp_path / "out")
    assert done.exit_code == error.exit_code
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["items.csv", "log.csv"]
