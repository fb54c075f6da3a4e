"""Any table that common writers write comes back row for row, or is refused by the number of its row."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.readers import read_interactions
from delrec_lite.data.tables import open_table
from delrec_lite.data.times import read_times
from delrec_lite.errors import DataError

NAMES = ("user_id", "item_id", "timestamp", "title")
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# What separates, quotes, ends lines and is not ASCII; words between, so that rows look like rows.
texts = st.lists(st.sampled_from([*",;\t|\"'\n \\#:0aé東☃\u2028", '""', '"x"', "u1", ", ", "\0"]), max_size=6).map(
    "".join
)
ids = st.builds(lambda text, n: f"u{n}{text}v", texts, st.integers(0, 9))
rows_of_text = st.lists(st.tuples(ids, ids, st.integers(0, 2**40), texts), min_size=1, max_size=8)


def delimited(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL, end="\n", encoding="utf-8", first=""):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([NAMES, *rows])
    return (first + out.getvalue()).encode(encoding)


def without_lines(rows):
    """The csv module quotes the ends of lines that it writes itself alone."""
    return [tuple(str(cell).replace("\n", " ") for cell in row) for row in rows]


def by_pandas(rows, **options):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(rows, columns=NAMES).to_csv(index=False, **options).encode()


def by_polars(rows, **options):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(rows, schema=list(NAMES), orient="row").write_csv(**options).encode()


def by_duckdb(rows, kind="csv"):
    duckdb = pytest.importorskip("duckdb")
    path = Path(f"written-by-duckdb.{kind}")
    relation = duckdb.from_arrow(arrow_table(rows))
    getattr(relation, f"write_{kind}")(str(path))
    return path.read_bytes()


def by_pyarrow(rows):
    out = io.BytesIO()
    pyarrow.csv.write_csv(arrow_table(rows), out)
    return out.getvalue()


def arrow_table(rows):
    return pyarrow.table({name: [row[n] for row in rows] for n, name in enumerate(NAMES)})


def parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(arrow_table(rows), out)
    return out.getvalue()


def json_lines(rows):
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows).encode()


WRITERS = {
    "csv": (".csv", delimited),
    "csv, all quoted": (".csv", lambda rows: delimited(rows, quoting=csv.QUOTE_ALL)),
    "csv, texts quoted": (".csv", lambda rows: delimited(rows, quoting=csv.QUOTE_NONNUMERIC)),
    "csv, bars": (".csv", lambda rows: delimited(rows, "|")),
    "tsv": (".tsv", lambda rows: delimited(rows, "\t")),
    "tsv, all quoted": (".tsv", lambda rows: delimited(rows, "\t", csv.QUOTE_ALL)),
    "Excel, comma": (".csv", lambda rows: delimited(rows, end="\r\n", encoding="utf-8-sig")),
    "Excel, semicolon": (".csv", lambda rows: delimited(rows, ";", end="\r\n", encoding="utf-8-sig")),
    "Excel, Unicode text": (".txt", lambda rows: delimited(rows, "\t", end="\r\n", encoding="utf-16")),
    "Excel, separator named": (".csv", lambda rows: delimited(rows, ";", end="\r\n", first="sep=;\r\n")),
    "Excel, old Macintosh": (".csv", lambda rows: delimited(without_lines(rows), ";", end="\r")),
    "UTF-16 without mark": (".csv", lambda rows: delimited(rows, encoding="utf-16-le")),
    "pyarrow": (".csv", by_pyarrow),
    "Parquet": (".parquet", parquet),
    "JSON Lines": (".jsonl", json_lines),
    "pandas": (".csv", by_pandas),
    "pandas, tabs": (".tsv", lambda rows: by_pandas(rows, sep="\t")),
    "Polars": (".csv", by_polars),
    "Polars, semicolon": (".csv", lambda rows: by_polars(rows, separator=";")),
    "DuckDB": (".csv", by_duckdb),
    "DuckDB, Parquet": (".parquet", lambda rows: by_duckdb(rows, "parquet")),
}


def trimmed(rows):
    return [
        tuple(pyarrow.compute.utf8_trim_whitespace(pyarrow.scalar(str(cell))).as_py() for cell in row) for row in rows
    ]


@pytest.mark.parametrize("writer", WRITERS)
@quick
@given(rows=rows_of_text)
def test_what_a_writer_writes_comes_back_or_its_row_is_refused(tmp_path, monkeypatch, writer, rows):
    monkeypatch.chdir(tmp_path)
    suffix, write = WRITERS[writer]
    path = tmp_path / f"table{suffix}"
    path.write_bytes(write(rows))
    table = open_table(path).read(NAMES)
    if not table.malformed:
        written = without_lines(rows) if "Macintosh" in writer else rows
        assert list(zip(*map(table.texts, NAMES), strict=True)) == trimmed(written)
    else:
        above = 3 if "named" in writer else 2
        refused = rows[min(number for number, _ in table.malformed) - above]
        assert any("\n" in str(cell) for cell in refused), "a row of one line is never refused"


@pytest.mark.parametrize("delimiter", [",", ";"])
@quick
@given(rows=rows_of_text.map(without_lines), wrong=st.sets(st.integers(0, 7)))
def test_an_open_quote_costs_its_own_row_alone(tmp_path, delimiter, rows, wrong):
    """The last field of some rows begins with a quote that nobody closes."""
    lines = delimited(rows, delimiter).decode().split("\n")[1:-1]
    wrong = {n for n in wrong if n < len(rows)}
    for n in wrong:
        lines[n] = delimiter.join([*delimited([rows[n][:3]], delimiter).decode().split("\n")[1:2], '"great'])
    path = tmp_path / "log.csv"
    path.write_text("\n".join([delimiter.join(NAMES), *lines, ""]), newline="")
    table = open_table(path).read(NAMES)
    assert {number - 2 for number, _ in table.malformed} == wrong
    read = [row for n, row in enumerate(rows) if n not in wrong]
    assert list(zip(*map(table.texts, NAMES), strict=True)) == trimmed(read)
    assert [table.row(n) - 2 for n in range(len(read))] == [n for n in range(len(rows)) if n not in wrong]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".inter", ".csv.gz", ".parquet"])
@quick
@given(data=st.binary(max_size=80), header=st.booleans())
def test_any_bytes_are_read_or_refused_in_one_clear_error(tmp_path, suffix, data, header):
    path = tmp_path / f"log{suffix}"
    path.write_bytes((b"user_id,item_id,timestamp\n" if header else b"") + data)
    try:
        log = read_interactions(path, bad=BadRows("drop"))
    except DataError as caught:
        error = caught
    else:
        assert len(log)
        return
    assert str(path) in error.message
    assert error.hint


words = st.sampled_from(["2019-10-01", "T", " ", "00:00:07", "Z", "UTC", "+02:00", "Tue,", "1", "Oct", "12", "PM", "."])


@quick
@given(text=st.lists(words, max_size=8).map("".join) | st.text(max_size=12))
def test_any_text_is_a_time_or_none(text):
    times = read_times(pyarrow.chunked_array([[text, "soon"]]), "t")
    assert times.valid.tolist()[1:] == [False]
    assert np.isfinite(times.values[0]) or not times.valid[0]
