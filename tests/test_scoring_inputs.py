"""`score` reads users from any kind of input; what cannot be scored is refused, or counted and written."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delrec_lite.errors import DataError, UsageError
from delrec_lite.scoring.columns import Names, parse_names
from delrec_lite.scoring.lists import list_in
from delrec_lite.scoring.run import Options, score
from tests.bundles import TITLES, tiny_bundle
from tests.command import run
from tests.scoring import HISTORIES, SMALL, assert_same, expected_rows, rows_of, table_file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("scored")).bundle.folder


@pytest.fixture(scope="module")
def expected(bundle):
    return expected_rows(bundle)


@pytest.fixture
def users(tmp_path):
    return table_file(tmp_path / "users.parquet", HISTORIES)


def interactions(histories=HISTORIES):
    """Rows of a log, in no order, with times that order each user's."""
    rows = [(u, item, 1000 + t) for u, history in histories.items() for t, item in enumerate(history)]
    return [rows[n] for n in np.random.default_rng(1).permutation(len(rows))]


def write_csv(path):
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in interactions()))


def write_dates(path):
    lines = [f"{u};{i};2024-01-03T09:{t - 1000:02d}:00+02:00\n" for u, i, t in interactions()]
    path.write_text("user_id;item_id;timestamp\n" + "".join(lines))


def write_jsonl(path):
    path.write_text("\n".join(json.dumps({"user_id": u, "history": h}) for u, h in HISTORIES.items()))


def write_texts(path):
    lines = [f"{u}\t{'|'.join(h) or '[]'}\n" for u, h in HISTORIES.items()]
    path.write_bytes(gzip.compress("".join(["user_id\thistory\n", *lines]).encode()))


def write_log(path):
    users, items, times = zip(*interactions(), strict=True)
    table = pa.table(
        {
            "user_id": pa.array(users).dictionary_encode(),
            "item_id": items,
            "timestamp": pa.array(times, pa.timestamp("s")),
        }
    )
    pq.write_table(table, path)


def write_folder(path):
    path.mkdir()
    half = dict(list(HISTORIES.items())[:9])
    table_file(path / "b.parquet", half)
    table_file(path / "a.parquet", {u: h for u, h in HISTORIES.items() if u not in half})
    (path / "_SUCCESS").write_text("")


def write_spark(path):
    for n, file in enumerate(("a", "b")):
        folder = path.parent / f"{file}.parquet"
        folder.mkdir()
        table_file(folder / "part-0.parquet", dict(list(HISTORIES.items())[n::2]))
        (folder / "_SUCCESS").write_text("")


def write_frame(path):
    """A frame's column of lists as CSV: as Python prints lists, and arrays."""
    texts = [str(h) if n % 2 else str(np.array(h)) for n, h in enumerate(HISTORIES.values())]
    pd.DataFrame({"user_id": list(HISTORIES), "history": texts}).to_csv(path, index=False, encoding="utf-16")


def write_mixed(path):
    """Dates beside seconds, in the order of neither; and an hour without events."""
    path.mkdir()
    dates = [(u, i, pd.Timestamp(1000 + t, unit="s").isoformat() if t % 2 else 1000 + t) for u, i, t in interactions()]
    (path / "a.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in dates))
    (path / "b.csv").write_text("user_id,item_id,timestamp\n")
    (path / "c.jsonl").write_text("")


@pytest.mark.parametrize(
    ("name", "write", "listed"),
    [
        ("log.csv", write_csv, False),
        ("log.txt", write_dates, False),
        ("users.jsonl", write_jsonl, True),
        ("users.tsv.gz", write_texts, True),
        ("log.parquet", write_log, False),
        ("days", write_folder, True),
        ("*.parquet", write_spark, True),
        ("frame.csv", write_frame, True),
        ("hours", write_mixed, False),
    ],
)
def test_every_kind_of_input_gives_what_recommend_batch_gives(
    bundle, expected, tmp_path, monkeypatch, name, write, listed
):
    monkeypatch.setattr("delrec_lite.scoring.chunks.BLOCK_BYTES", 100)  # many chunks
    write(tmp_path / name)
    manifest = score(bundle, str(tmp_path / name), tmp_path / "recs", SMALL, workers=1)
    wanted = expected if listed else [row for row in expected if row[0] != "u03"]
    assert_same(rows_of(tmp_path / "recs"), wanted)
    counts = {"users": 20 - (not listed), "parts": 3, "rejected": 0, "without_history": int(listed), "unknown": 1}
    assert manifest["counts"] == {**counts, "rows": len(wanted)}
    assert manifest["state"] == "done"
    assert sorted(p.name for p in (tmp_path / "recs").iterdir()) == [
        "manifest.json",
        *(f"part-0000{n}.parquet" for n in range(3)),
    ]


def test_parts_are_zstd_with_four_columns_and_ids_keep_their_type(bundle, tmp_path):
    users = table_file(tmp_path / "u.parquet", {9: ["i1"], 10: ["i2"]})
    score(bundle, users, tmp_path / "recs", workers=1)
    part = pq.ParquetFile(tmp_path / "recs" / "part-00000.parquet")
    assert part.schema_arrow.names == ["user_id", "rank", "item_id", "score"]
    assert part.metadata.row_group(0).column(0).compression == "ZSTD"
    assert part.read().column("user_id").to_pylist()[::10] == [9, 10]


def test_categories_of_whole_numbers_stay_numbers(bundle, tmp_path):
    ids = pa.array([9, 10]).dictionary_encode()
    pq.write_table(pa.table({"user_id": ids, "history": [["i1"], ["i2"]]}), tmp_path / "u.parquet")
    score(bundle, str(tmp_path / "u.parquet"), tmp_path / "recs", Options(k=1), workers=1)
    assert pq.read_table(tmp_path / "recs" / "part-00000.parquet").column("user_id").to_pylist() == [9, 10]


def test_ids_beyond_int64_keep_their_type_and_order(bundle, tmp_path):
    ids = pa.array([2**63 + 5, 3, 2**63 + 1], pa.uint64())
    pq.write_table(pa.table({"user_id": ids, "history": [["i1"], ["i2"], ["i3"]]}), tmp_path / "u.parquet")
    score(bundle, str(tmp_path / "u.parquet"), tmp_path / "recs", Options(k=1), workers=1)
    column = pq.read_table(tmp_path / "recs" / "part-00000.parquet").column("user_id")
    assert (column.type, column.to_pylist()) == (pa.uint64(), [3, 2**63 + 1, 2**63 + 5])


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['i1', \"i'2\", None]", ["i1", "i'2", ""]),
        ("['a' 'b,c'\n 'd']", ["a", "b,c", "d"]),
        ("[1 2. 3.0]", ["1", "2", "3"]),
        ("[ ]", []),
        ("['a' ... 'b']", None),
        ("[['a']]", None),
        ("['a", None),
    ],
)
def test_lists_as_python_prints_them(text, items):
    assert list_in(text) == items


BAD_LINES = (
    ["user_id,item_id,timestamp", "u1,i1,1", "u2,i2", ",i3,1", "u3,i3,soon", "u4,NULL,1", "u5,gone,1", "", "u6,i6,1"],
    [
        (3, "", "2 fields instead of 3"),
        (4, "", "user_id is empty"),
        (5, "u3", "timestamp is 'soon', neither a number nor a date"),
    ]
    + [
        (6, "u4", "item_id is 'NULL', a missing value"),
        (7, "u5", "no item of item_id is in the catalogue, such as 'gone'"),
    ],
)


def test_bad_rows_are_counted_and_written_or_refused(bundle, tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(BAD_LINES[0]))
    with pytest.raises(DataError, match=r"log.csv, row 3: 2 fields instead of 3; row 4"):
        score(bundle, str(tmp_path / "log.csv"), tmp_path / "recs", workers=1)
    assert not (tmp_path / "recs").exists()
    manifest = score(bundle, str(tmp_path / "log.csv"), tmp_path / "recs", Options(on_bad_row="drop"), workers=1)
    assert manifest["counts"]["rejected"] == 5
    assert manifest["counts"]["users"] == 2
    rejected = pq.read_table(tmp_path / "recs" / "rejected.parquet").to_pylist()
    assert [(row["row"], row["user_id"], row["reason"]) for row in rejected] == BAD_LINES[1]
    assert {row["file"] for row in rejected} == {str(tmp_path / "log.csv")}


def test_malformed_json_and_a_user_that_comes_twice_are_bad_rows(bundle, tmp_path):
    lines = [
        '{"user_id": 1, "history": [1.0, "i1"]}',
        "{",
        '{"user_id": [], "history": ["i1"]}',
        '{"user_id": 2, "history": {}}',
    ]
    lines += ['{"user_id": 1, "history": ["i1"]}', '{"user_id": 3}']
    (tmp_path / "u.jsonl").write_text("\n".join(lines))
    score(bundle, str(tmp_path / "u.jsonl"), tmp_path / "recs", Options(on_bad_row="drop"), workers=1)
    rejected = pq.read_table(tmp_path / "recs" / "rejected.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (2, "not a JSON object"),
        (3, "user_id is neither text nor a number"),
        (4, "history is missing or no list"),
        (5, "its user comes a second time"),
        (6, "history is missing or no list"),
    ]


def break_nothing(folder):
    """The input of ``users`` is fine."""


def no_column(folder):
    pq.write_table(pa.table({"user_id": [1], "basket": [["i1"]]}), folder / "users.parquet")


def no_user(folder):
    pq.write_table(
        pa.table({"user_id": pa.array([], pa.string()), "history": pa.array([], pa.list_(pa.string()))}),
        folder / "users.parquet",
    )


def cut(folder):
    path = folder / "users.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def workbook(folder):
    (folder / "users.parquet").rename(folder / "old")
    (folder / "users.parquet").unlink(missing_ok=True)
    (folder / "users.xlsx").write_bytes(b"PK\x03\x04....")


def twice(folder):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([["i1"]])]
    pq.write_table(pa.Table.from_arrays(columns, ["user_id", "user_id", "history"]), folder / "users.parquet")


def pretty(folder):
    (folder / "users.json").write_text('{\n "user_id": 1\n}')


def numbers_for_lists(folder):
    pq.write_table(pa.table({"user_id": [1], "history": [3]}), folder / "users.parquet")


@pytest.mark.parametrize(
    ("break_input", "source", "options", "error", "words"),
    [
        (no_column, "users.parquet", {}, DataError, "neither a column 'history' nor 'item_id'"),
        (break_nothing, "users.parquet", {"columns": Names(user="uid")}, DataError, "no column 'uid'"),
        (break_nothing, "users.parquet", {"columns": Names(item="history", time="ts")}, DataError, "no column 'ts'"),
        (no_user, "users.parquet", {}, DataError, "holds no user to score"),
        (cut, "users.parquet", {}, DataError, "users.parquet"),
        (workbook, "users.xlsx", {}, DataError, "a workbook"),
        (twice, "users.parquet", {}, DataError, "several columns 'user_id'"),
        (pretty, "users.json", {}, DataError, "no JSON object in a line"),
        (numbers_for_lists, "users.parquet", {}, DataError, "holds int64 and no lists"),
        (break_nothing, "nothing/*.parquet", {}, DataError, "no file of users"),
        (break_nothing, "nothing.csv", {}, DataError, "no file at"),
        (break_nothing, "-", {}, DataError, "standard input"),
        (break_nothing, "", {}, DataError, "without a name"),
        (break_nothing, "s3://shop/users.parquet", {}, DataError, "s3:// is not read"),
        (break_nothing, "users.parquet", {"fused": True}, UsageError, "no teacher"),
        (break_nothing, "users.parquet", {"k": 0}, UsageError, "k is 0"),
        (break_nothing, "users.parquet", {"candidates": ("gone",)}, UsageError, "no candidate is in the catalogue"),
        (break_nothing, "users.parquet", {"quant": "q9"}, UsageError, "q9"),
    ],
)
def test_what_cannot_be_scored_is_one_error_and_leaves_nothing(
    bundle, users, tmp_path, break_input, source, options, error, words
):
    break_input(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=words) as raised:
        score(
            bundle,
            str(tmp_path / source) if source.strip("-") and ":" not in source else source,
            tmp_path / "recs",
            Options(**options),
            workers=1,
        )
    assert raised.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_columns_are_named_for_lists_or_interactions():
    assert parse_names("user=a, history=b") == Names(user="a", history="b")
    for text in ("user", "title=x", "user=", "user=u,history=h,time=t", "user=a,user=b", "user=a,item=a"):
        with pytest.raises(UsageError):
            parse_names(text)


def test_lists_of_items_are_files_of_lines(bundle, users, tmp_path):
    (tmp_path / "only.txt").write_text("\ufeffi1\n\ni2\r\ngone\ni1\n")
    words = ["score", bundle, users, "--out", tmp_path / "recs", "-k", "3", "--workers", "1"]
    done = run(*words, "--candidates", tmp_path / "only.txt", "--exclude", tmp_path / "none.txt")
    assert (done.returncode, "none.txt" in done.stderr) == (4, True)
    done = run(*words, "--candidates", tmp_path / "only.txt")
    assert done.returncode == 0, done.stderr
    assert "left out of candidates: 1, 'gone'" in done.stderr
    assert {row[2] for row in rows_of(tmp_path / "recs")} == {"i1", "i2"}


def test_titles_are_no_ids(bundle, tmp_path):
    users = table_file(tmp_path / "u.parquet", {"a": [TITLES[0]]})
    with pytest.raises(DataError, match="no item of history is in the catalogue"):
        score(bundle, users, tmp_path / "recs", workers=1)
