"""What is odd in a user's files: rows with open quotes, missing values, times, ids of other types, pipes."""

import bz2
import gzip
import json
import os
import uuid
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.readers import Columns, read_interactions, read_items, read_titles
from delrec_lite.data.tables import Layout, open_table
from delrec_lite.data.times import part_of_times, read_times
from delrec_lite.errors import DataError, UsageError

HEAD = "user_id,item_id,timestamp,review\n"


def written(folder, text, name="log.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path, bad=None, **options):
    log = read_interactions(path, bad=bad or BadRows("drop"), **options)
    return [(log.user_ids[u], log.item_ids[i], t) for u, i, t in zip(log.users, log.items, log.times, strict=True)]


# --- Quotes. ---

ROWS = [f"u{n % 5},i{n % 7},{n},fine\n" for n in range(40)]


@pytest.mark.parametrize(
    ("row", "closed_by"),
    [
        ('u1,i1,9,"great\n', "u2,i2,9,ok\n"),
        ('u1,i1,9,"great\n', 'u2,i2,9,"ok"\n'),
        ('u1,i1,9,"great\n', 'u2,i2,9,ok"\n'),
    ],
)
def test_a_row_with_an_open_quote_is_named_and_the_rows_after_it_are_read(tmp_path, row, closed_by):
    path = written(tmp_path, HEAD + "".join([*ROWS[:9], row, *ROWS[9:], closed_by]))
    with pytest.raises(DataError, match=r"log\.csv, row 11: a quote is opened and not closed") as caught:
        read_interactions(path)
    assert "malformed rows in all" not in caught.value.message
    bad = BadRows("drop")
    assert len(rows_of(path, bad)) == 41
    assert [(file.count, file.first[0][0]) for file in bad.files] == [(1, 11)]


def test_an_open_quote_among_the_names_of_columns_is_named(tmp_path):
    path = written(tmp_path, HEAD.replace("item_id", '"item_id') + "".join(ROWS))
    with pytest.raises(DataError, match="row 1: a quote is opened and not closed"):
        read_interactions(path)
    two_lines = HEAD.replace("review", '"what they\nwrote"')
    assert len(rows_of(written(tmp_path, two_lines + "".join(ROWS)))) == len(ROWS)


def test_what_is_read_and_what_is_refused_equals_the_lines(tmp_path):
    rows = [row.replace("fine", '"fine') if n % 7 == 3 else row for n, row in enumerate(ROWS)]
    rows[5] = "u1,i1\n"
    bad = BadRows("drop")
    assert len(rows_of(written(tmp_path, HEAD + "".join(rows)), bad)) + bad.files[0].count == len(ROWS)


def test_blank_rows_are_skipped_and_counted(tmp_path):
    bad = BadRows()
    assert len(rows_of(written(tmp_path, HEAD + "\n,,,\n".join(ROWS) + ",,,bye\n\n\n"), bad)) == len(ROWS)
    path = written(tmp_path, "item_id,title\ni1,lamp\n\n,\n", "items.csv")
    assert read_titles(path, bad=bad) == {"i1": "lamp"}
    blank = [2 * len(ROWS) - 1, 2]
    assert [note.partition(": ")[2] for note in bad.notes] == [f"{count} blank rows skipped" for count in blank]


@pytest.mark.parametrize(
    "title",
    [
        '5" lamp',
        'a "quoted" word',
        "lamp\nlarge",
        "lamp\n\nbig, large\nand green",
        'say ""hi""',
        "a\0b",
        "x;y",
        "lamp, \nlarge",
    ],
)
def test_quotes_zero_bytes_and_lines_within_a_field_are_read(tmp_path, title):
    cell = f'"{title}"' if "\n" in title or '""' in title or "," in title else title
    path = written(tmp_path, f"item_id,title,price\ni1,{cell},5\ni2,chair,6\n", "items.csv")
    clean = " ".join(title.replace('""', '"').replace("\0", " ").split())
    assert read_titles(path) == {"i1": clean, "i2": "chair"}


def test_quotes_are_text_in_recbole_s_files_and_where_tabs_separate_unclosed_ones(tmp_path):
    typed = written(tmp_path, 'item_id:token\ttitle:token_seq\n1\t"Heroes"\n2\t"Great\n', "x.item")
    assert read_titles(typed) == {"1": '"Heroes"', "2": '"Great'}
    plain = written(tmp_path, 'item_id\ttitle\n1\t"Heroes\n2\tGreat\n', "x.tsv")
    assert read_titles(plain) == {"1": '"Heroes', "2": "Great"}


def test_a_row_that_is_not_utf_8_is_named_if_its_columns_are_read(tmp_path):
    text = "user_id,item_id,timestamp,note\nu1,i1,1,caf\xe9\nu\xe9,i2,2,ok\nu3,i3,3,ok\nu4,caf\xe9\n".encode("latin-1")
    bad = BadRows("drop")
    assert [user for user, _, _ in rows_of(written(tmp_path, text), bad)] == ["u1", "u3"]
    assert [row for row, _ in bad.files[0].first] == [3, 5]
    with pytest.raises(DataError, match="row 3: not UTF-8 text"):
        read_interactions(tmp_path / "log.csv")


# --- Missing values. ---


@pytest.mark.parametrize("word", ["NULL", "null", "None", "nan", "NaN", "N/A", "<NA>", "\\N", "NA", "#N/A", ""])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_a_word_for_a_missing_value_is_no_id(tmp_path, word, column):
    row = f"{word},i3,3" if column == "user_id" else f"u3,{word},3"
    path = written(tmp_path, f"user_id,item_id,timestamp\nu1,i1,1\n{row}\nu2,i2,2\n")
    says = f"row 3: {column} is '{word}', a missing value" if word else f"row 3: {column} is empty"
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    assert says.replace("\\", "\\\\") in caught.value.message
    assert ("--keep-na" in caught.value.hint) == bool(word)
    assert len(rows_of(path)) == 2
    assert len(rows_of(path, layout=Layout(keep_na=True))) == (3 if word else 2)


def test_a_title_that_means_a_missing_value_is_refused_counted_or_kept(tmp_path):
    path = written(tmp_path, "item_id,title,brand\ni1,lamp,NULL\ni2,NaN,x\nNone,chair,x\n", "items.csv")
    with pytest.raises(DataError, match="row 3: item 'i2' has the title 'NaN', a missing value; row 4: the item id is"):
        read_items(path)
    bad = BadRows("drop")
    assert read_items(path, ["brand"], bad=bad) == ({"i1": "lamp"}, {"i1": "", "i2": "x", "None": "x"})
    assert bad.files[0].count == 2
    assert read_titles(path, layout=Layout(keep_na=True)) == {"i1": "lamp", "i2": "NaN", "None": "chair"}


def test_null_and_nan_of_parquet_are_missing_and_whole_numbers_stay_whole(tmp_path):
    table = pyarrow.table(
        {"user_id": [1.0, None, float("nan"), 2.0], "item_id": [1, 2, 3, 4], "timestamp": [1, 2, 3, 4]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    bad = BadRows("drop")
    assert [user for user, _, _ in rows_of(tmp_path / "log.parquet", bad, layout=Layout(keep_na=True))] == ["1", "2"]
    assert [row for row, _ in bad.files[0].first] == [2, 3]


def test_ids_that_floats_cannot_tell_apart_are_refused(tmp_path):
    ids = pyarrow.array([9007199254740993, 9007199254740995, None]).cast(pyarrow.float64(), safe=False)
    path = tmp_path / "log.parquet"
    for column in ("user_id", "item_id"):
        table = {"user_id": [1, 2, 3], "item_id": [1, 2, 3], "timestamp": [1, 2, 3], column: ids}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        with pytest.raises(DataError, match=f"log.parquet: {column} has ids that are floats of 64 bits"):
            read_interactions(path)
    pyarrow.parquet.write_table(pyarrow.table({"item_id": ids, "title": ["a", "b", "c"]}), path)
    with pytest.raises(DataError, match="item_id has ids that are floats of 64 bits"):
        read_titles(path)


def test_one_column_is_named_for_one_thing(tmp_path):
    path = written(tmp_path, "a,b,c\n1,2,3\n", "log.csv")
    with pytest.raises(UsageError, match="'a' is named for two of user, item and time"):
        read_interactions(path, Columns("a", "a", "c"))


# --- Times. ---

MOMENT = 1569888007


@pytest.mark.parametrize(
    "text",
    [
        "2019-10-01 00:00:07 UTC",
        "2019-10-01T00:00:07Z",
        "2019-10-01t00:00:07z",
        "2019-10-01T02:00:07+02:00",
        "2019-10-01 02:00:07 +0200",
        "2019-09-30 19:00:07-05",
        "2019-10-01 00:00:07 +0000 UTC",
        "2019-10-01T02:00:07+02:00[Europe/Berlin]",
        "2019-10-01 00:00:07.000000000",
        "2019-10-01 00:00:07,000",
        "2019/10/1 0:00:07",
        "2019-10-01 12:00:07 AM",
        "Tue, 01 Oct 2019 00:00:07 GMT",
        "Tue, 01 Oct 2019 02:00:07 +0200",
        "1569888007",
        "1569888007.0",
        "1.569888007E9",
    ],
)
def test_times_that_mean_one_moment_are_read(tmp_path, text):
    path = written(tmp_path, f"user_id;item_id;timestamp\nu1;i1;{text}\nu1;i2;2019-10-01\n")
    assert [t for _, _, t in rows_of(path)] == [MOMENT, MOMENT - 7]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("01/10/2019 00:00", "which number is the day"),
        ("2019-13-01", "neither a number nor a date"),
        ("2019-10-01 00:00:07 EST", "neither a number nor a date"),
        ("soon", "neither a number nor a date"),
        ("inf", "neither a number nor a date"),
        ("NULL", "neither a number nor a date"),
    ],
)
def test_times_that_do_not_are_refused_by_row(tmp_path, text, says):
    with pytest.raises(DataError, match=f"row 3: timestamp is '{text}'.*{says}"):
        read_interactions(written(tmp_path, f"user_id,item_id,timestamp\nu1,i1,5\nu1,i2,{text}\n"))


def column(values, kind=None):
    return pyarrow.chunked_array([pyarrow.array(values, kind)])


def test_parts_of_a_microsecond_order_rows_in_parquet_and_in_text():
    moments = [MOMENT * 10**9 + n for n in (2, 1, 3)]
    for times in (
        column(moments, pyarrow.timestamp("ns")),
        column(moments, pyarrow.timestamp("ns", "Europe/Berlin")),
        column([f"2019-10-01T00:00:07.00000000{n}Z" for n in (2, 1, 3)]),
        column(moments),
        column([str(moment) for moment in moments]),
    ):
        assert np.argsort(read_times(times, "t").values).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([MOMENT], pyarrow.timestamp("s")),
        ([MOMENT * 1000], pyarrow.timestamp("ms", "UTC")),
        ([MOMENT * 10**6], pyarrow.timestamp("us")),
        ([MOMENT * 10**9], pyarrow.timestamp("ns")),
        ([datetime.fromtimestamp(MOMENT, UTC)], None),
        ([MOMENT], pyarrow.int32()),
        ([float(MOMENT)], None),
        ([str(MOMENT)], pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
    ],
)
def test_every_type_of_time_in_parquet_gives_seconds(values, kind):
    times = read_times(column([*values, None], kind), "t")
    assert times.values[0] == MOMENT
    assert times.valid.tolist() == [True, False]
    assert times.notes == ()


SECONDS = "2024-01-03T09:12:07"


@pytest.mark.parametrize(
    "texts",
    [
        ["2024-01-03", "2024-01-03 09:12", SECONDS, f"{SECONDS}.25", ""],
        [f"{SECONDS}Z", f"{SECONDS}+02:00", f"{SECONDS}-0530", f"{SECONDS}.123456Z"],
        [SECONDS, f"{SECONDS}Z"],
        [f"{SECONDS}.123456789", f"{SECONDS}.123456788"],
        ["1600-01-01", SECONDS],
        ["2024-02-30", SECONDS],
        [f"{SECONDS}.1234567891", "2024-01-03T09"],
    ],
)
def test_dates_mean_the_same_whatever_stands_beside_them(texts):
    """Text that is plain ISO 8601 throughout is read by another parser than text with a date of an e-mail in it."""
    alone, beside = part_of_times(column(texts), "t"), part_of_times(column([*texts, "3 Jan 2024 09:12:07 -0000"]), "t")
    assert alone.valid.tolist() == beside.valid.tolist()[:-1]
    assert alone.values[alone.valid].tolist() == beside.values[:-1][alone.valid].tolist()
    assert [more - count for count, more in zip(alone.zones, beside.zones, strict=True)] in ([1, 0], [0, 1])
    assert (alone.exact is None) == (beside.exact is None)
    if alone.exact is not None:
        assert alone.exact[alone.valid].tolist() == beside.exact[:-1][alone.valid].tolist()


def test_dates_are_times_and_times_of_day_are_not(tmp_path):
    assert read_times(column([date(2019, 10, 1)]), "t").values.tolist() == [MOMENT - 7]
    far = read_times(column(["9999-12-31", "0001-01-01"]), "t")
    assert far.valid.all()
    assert far.values[0] > far.values[1]
    with pytest.raises(DataError, match="times of day"):
        read_times(column([5], pyarrow.time32("s")), "t")


def test_several_units_and_times_without_a_zone_are_said_with_counts():
    (note,) = read_times(column([MOMENT, MOMENT * 1000, MOMENT * 1000 + 1, 7]), "ts").notes
    assert "1 like seconds and 2 like milliseconds" in note
    (note,) = read_times(column(["2019-10-01 00:00:07", str(MOMENT * 1000)]), "ts").notes
    assert "1 like seconds and 1 like milliseconds" in note
    (note,) = read_times(column(["2019-10-01 00:00:07", "2019-10-01 00:00:07Z", "2019-10-02 01:00:00Z"]), "ts").notes
    assert "1 times have no time zone and are read as UTC, 2 have one" in note
    assert read_times(column([1, 10**6, 5]), "ts").notes == ()


# --- Ids of other types, and where files come from. ---


def parquet_log(folder, ids):
    table = pyarrow.table({"user_id": ids, "item_id": ["a"] * len(ids), "timestamp": list(range(len(ids)))})
    pyarrow.parquet.write_table(table, folder / "log.parquet")
    return folder / "log.parquet"


def test_uuids_in_bytes_are_read_as_text(tmp_path):
    ids = [uuid.UUID(int=255), uuid.UUID("12345678-1234-5678-1234-567812345678")]
    binary = [i.bytes for i in ids]
    for values in (
        pyarrow.array(binary, pyarrow.binary(16)),
        pyarrow.array(binary),
        pyarrow.array(binary, pyarrow.uuid()),
    ):
        assert [user for user, _, _ in rows_of(parquet_log(tmp_path, values))] == [str(i) for i in ids]
    texts = pyarrow.array([b"anna", b"b\xc3\xa9a"])
    assert [user for user, _, _ in rows_of(parquet_log(tmp_path, texts))] == ["anna", "béa"]


@pytest.mark.parametrize(
    "ids",
    [pyarrow.array([b"\xff\xfe"]), pyarrow.array([[1, 2]]), pyarrow.array([{"id": 1}]), pyarrow.array([b"\xff" * 17])],
)
def test_ids_that_have_no_text_are_one_clear_error(tmp_path, ids):
    with pytest.raises(DataError, match=r"log\.parquet: user_id") as caught:
        read_interactions(parquet_log(tmp_path, ids))
    assert "write them as text" in caught.value.hint


LOG = "user_id,item_id,timestamp\nu1,i1,1\nu2,i2,2\n"


@pytest.mark.parametrize(
    ("pack", "suffix"), [(gzip.compress, ".csv.gz"), (bz2.compress, ".csv.bz2"), (gzip.compress, ".csv")]
)
def test_packed_files_are_unpacked_by_their_content_and_cut_ones_named(tmp_path, pack, suffix):
    packed = pack(LOG.encode())
    assert len(rows_of(written(tmp_path, packed, f"log{suffix}"))) == 2
    with pytest.raises(DataError, match=rf"log{suffix} is cut or damaged"):
        read_interactions(written(tmp_path, packed[:-12], f"log{suffix}"))


def test_a_pipe_is_read_once(tmp_path):
    (tmp_path / "pipe").symlink_to("/dev/null")
    reading, writing = os.pipe()
    os.write(writing, LOG.encode())
    os.close(writing)
    try:
        assert len(rows_of(Path(f"/dev/fd/{reading}"))) == 2
    finally:
        os.close(reading)
    with pytest.raises(DataError, match="holds no rows"):
        read_interactions(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"PK\x03\x04rest", "workbook"), (b"SQLite format 3\0", "SQLite"), (b"ARROW1\0\0", "Feather"), (b"", "no rows")],
)
def test_files_of_other_formats_are_named(tmp_path, content, what):
    with pytest.raises(DataError, match=what):
        read_interactions(written(tmp_path, content))
    with pytest.raises(DataError, match="is a folder"):
        read_interactions(tmp_path)


def test_json_lines_are_read_and_wrong_ones_named(tmp_path):
    objects = [
        {"user_id": "u1", "item_id": 7, "timestamp": MOMENT},
        {"user_id": "u2", "item_id": 8.0, "timestamp": "2019-10-01"},
    ]
    lines = [json.dumps(row) for row in objects]
    lines += [
        "{broken",
        "[1]",
        '{"user_id": {"$oid": "x"}, "item_id": 1, "timestamp": 1}',
        '{"user_id": null, "item_id": 1}',
        "",
    ]
    path = written(tmp_path, gzip.compress("\n".join(lines).encode()), "log.jsonl.gz")
    bad = BadRows("drop")
    assert rows_of(path, bad) == [("u1", "7", MOMENT), ("u2", "8", MOMENT - 7)]
    assert [row for row, _ in bad.files[0].first] == [3, 4, 5, 6]
    array = written(tmp_path, json.dumps(objects), "log.json")
    assert rows_of(array) == rows_of(path)
    items = written(tmp_path, '{"item_id": 7, "title": "Lamp", "tags": ["red", "large"]}\n', "items.ndjson")
    assert read_items(items, ["tags"]) == ({"7": "Lamp"}, {"7": "red, large"})
    with pytest.raises(DataError, match="no column 'timestamp'"):
        read_interactions(written(tmp_path, '{"user_id": 1, "item_id": 2}\n', "log.jsonl"))


@pytest.mark.parametrize(
    ("separator", "text"), [("::", "1::10::9::5\n"), ("tab", "1\t10\t9\t5\n"), ("|", "1|10|9|5\n"), ("", "1,10,9,5\n")]
)
def test_columns_of_files_without_a_header_have_numbers(tmp_path, separator, text):
    layout, columns = Layout(separator, header=False), Columns("1", "2", "4")
    path = written(tmp_path, text * 2)
    assert rows_of(path, columns=columns, layout=layout) == [("1", "10", 5)] * 2
    assert rows_of(path, layout=layout) == [("1", "10", 9)] * 2
    headed = written(tmp_path, LOG, "headed.csv")
    assert len(rows_of(headed, layout=Layout(header=False))) == 2
    bare = written(tmp_path, "10,Lamp,5\n11,Chair\n", "items.csv")
    with pytest.raises(DataError, match="row 2: 2 fields instead of 3"):
        read_titles(bare, columns, layout=Layout(header=False))
    for lines in ("10,Lamp,5\n", "item_id,title\n10,Lamp\n", "sku,title\n10,Lamp\n"):
        assert read_titles(written(tmp_path, lines, "items.csv"), columns, layout=Layout(header=False)) == {
            "10": "Lamp"
        }
    with pytest.raises(UsageError, match="user=uid"):
        read_interactions(path, Columns(user="uid"), layout=layout)
    with pytest.raises(DataError, match="has no header and 4 columns, and '9' is none of them"):
        read_interactions(path, Columns("1", "2", "9"), layout=layout)


def test_a_separator_that_cannot_separate_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--separator"):
        open_table(written(tmp_path, LOG), Layout('"'))
