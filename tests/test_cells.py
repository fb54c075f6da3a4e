"""Cells that may be lists: every list type of Arrow and JSON, lists in lists, and lists written as text."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from delrec_lite.data.cells import cells_of, joined_parts, written_list
from delrec_lite.data.readers import read_item_list
from delrec_lite.data.tables import Table, joined
from delrec_lite.data.typed_columns import ColumnSpec
from delrec_lite.errors import DataError

KINDS = [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_view(pa.string()), pa.list_(pa.string(), 2)]


def listed(path, **columns):
    """Side texts of two items, by the column ``x``, and its values as an item column."""
    parquet.write_table(pa.table({"item_id": ["a", "b"], "title": ["A", "B"], **columns}), path)
    found = read_item_list(path, ["x"], [ColumnSpec("x")])
    return list(found.texts.values()), found.rows.of(["a", "b"])[0].values


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_list_gives_its_parts(tmp_path, kind):
    texts, values = listed(tmp_path / "items.parquet", x=pa.array([["red", "lamp"], None], kind))
    assert texts == ["red, lamp", ""]
    assert values == (("red", "lamp"), None)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ([0, 1], "0, 1"),
        ([2.0, float("nan")], "2"),
        ([False], "false"),
        (["NULL", "red", None, ""], "red"),
        ([["Beauty", "Hair"], ["Sale"]], "Beauty, Hair, Sale"),
    ],
)
def test_parts_are_written_as_single_values_are(tmp_path, cell, text):
    texts, _ = listed(tmp_path / "items.parquet", x=[cell, cell])
    assert texts == [text, text]
    rows = [{"item_id": item, "title": item, "x": cell} for item in "ab"]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_item_list(tmp_path / "items.jsonl", ["x"])
    assert list(found.texts.values()) == [text, text]


def test_lists_of_mappings_are_refused(tmp_path):
    with pytest.raises(DataError, match="items.parquet: x has values of type struct"):
        listed(tmp_path / "items.parquet", x=[[{"a": 1}], None])
    (tmp_path / "items.jsonl").write_text('{"item_id": 1, "title": "A", "x": [{"a": 1}]}')
    with pytest.raises(DataError, match="row 1: x is neither text nor a number"):
        read_item_list(tmp_path / "items.jsonl", ["x"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("['red', \"blue's\"]", ["red", "blue's"]),
        ('["red", 3]', ["red", "3"]),
        ("[['a'], ['b']]", ["a", "b"]),
        ("[]", []),
        ("[Deluxe]", None),
        ("red, blue", None),
        ("[{'a': 1}]", None),
        ("[" * 10_000 + "]" * 10_000, None),
    ],
)
def test_a_list_in_a_text_file_is_read(text, parts):
    assert written_list(text) == parts
    assert joined_parts(text) == (text if parts is None else ", ".join(parts))


def test_files_whose_lists_differ_in_type_are_joined(tmp_path):
    columns = ([[1, 2]], [["red"]], ["blue"])
    tables = [Table(tmp_path / str(n), {"x": pa.chunked_array([pa.array(c)])}, 1) for n, c in enumerate(columns)]
    assert cells_of(joined(tables, tmp_path).columns["x"], "x") == [["1", "2"], ["red"], ["blue"]]
