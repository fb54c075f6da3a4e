"""Item columns from the item list through the prepared data set into the bundle, and for items added later."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delrec_lite.data.columns import ItemColumn, ItemRows, dump_columns, load_columns
from delrec_lite.data.movielens import read_columns
from delrec_lite.data.prepare import prepare_tables
from delrec_lite.data.readers import Interactions, read_item_list
from delrec_lite.data.store import Settings, load_dataset, load_settings
from delrec_lite.data.typed_columns import ColumnSpec, parse_specs, typed_column
from delrec_lite.errors import BundleError, DataError, UsageError
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import COLUMNS, TITLES, tiny_bundle
from tests.command import run
from tests.logs import write_recbole


@pytest.mark.parametrize(
    ("spec", "cells", "kind", "values"),
    [
        ("price", ["5", " 19.50", "", "NULL", "-1e3"], "number", (5, 19.5, None, None, -1000)),
        ("price", ["5", "6,50"], "text", ("5", "6,50")),
        ("code", ["01234", "5"], "text", ("01234", "5")),
        ("ean", ["40000000000000001", "5"], "text", ("40000000000000001", "5")),
        ("ok", ["True", "no", "", "YES"], "truth", (True, False, None, True)),
        ("ok", ["1", "0"], "number", (1, 0)),
        ("ok:truth", ["1", "0", "yes", ""], "truth", (True, False, True, None)),
        ("brand", ["  A  b ", "nan", "c"], "text", ("A b", None, "c")),
        ("tags", [["a", " b ", "a", ""], None, "c", []], "list", (("a", "b"), None, ("c",), ())),
        ("tags:list", ["a|b, c", "d;e", "f, g", ""], "list", (("a", "b, c"), ("d", "e"), ("f", "g"), None)),
        ("price:text", ["5", "6"], "text", ("5", "6")),
        ("tags:text", [["a", "b"]], "text", ("a, b",)),
        ("empty", ["", "NULL"], "text", (None, None)),
        ("infinite", ["inf", "5"], "text", ("inf", "5")),
    ],
)
def test_a_column_has_the_type_of_all_its_values_or_the_one_that_is_named(spec, cells, kind, values):
    column = typed_column(ColumnSpec.parse(spec), cells)
    assert (column.name, column.kind, column.values) == (spec.partition(":")[0], kind, values)
    (read,) = load_columns(json.loads(json.dumps(dump_columns([column]))), len(cells))
    assert read == column


@pytest.mark.parametrize(
    ("spec", "cells", "words"),
    [
        ("price:number", ["5", "cheap"], "row 2: 'cheap' is no number"),
        ("price:number", ["1e999"], "row 1: '1e999' is no number"),
        ("ok:truth", ["maybe"], "'maybe' is no truth value"),
        ("available", ["in stock", ""], "available says what can be recommended, and 'in stock' is neither"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_row(spec, cells, words):
    with pytest.raises(DataError, match=words) as raised:
        typed_column(ColumnSpec.parse(spec), cells)
    assert raised.value.hint


@pytest.mark.parametrize("names", [("a", "a:number"), ("",), ("x" * 101,), ("a\nb",), tuple(map(str, range(101)))])
def test_columns_to_keep_are_named_once_and_shortly(names):
    with pytest.raises(UsageError):
        parse_specs(names)
    assert parse_specs(["a:b", "c : number"]) == (ColumnSpec("a:b"), ColumnSpec("c", "number"))


TRUTHS = {"true": True, "yes": True, "false": False}
LINES = [
    ("i1", "Red", "5", ["x", "y"], "true"),
    ("i2", "Blue", "", [], "false"),
    ("i3", "Old", "7.5", None, ""),
    ("i4", "New", "1", ["z"], "yes"),
]
SPECS = parse_specs(["price", "tags:list", "available"])
EXPECTED = (
    ItemColumn("price", "number", (5.0, None, 7.5, 1.0)),
    ItemColumn("tags", "list", (("x", "y"), None, None, ("z",))),
    ItemColumn("available", "truth", (True, False, None, True)),
)


def items_csv(path, lines=LINES):
    rows = [f"{i},{t},{p},{'|'.join(tags or [])},{a}" for i, t, p, tags, a in lines]
    path.write_text("\n".join(["item_id,title,price,tags,available", *rows]) + "\n")
    return path


def items_jsonl(path):
    keys = ("item_id", "title", "price", "tags", "available")
    rows = [
        dict(zip(keys, (i, t, float(p) if p else None, tags, TRUTHS.get(a)), strict=True)) for i, t, p, tags, a in LINES
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def items_parquet(path):
    ids, titles, prices, tags, available = zip(*LINES, strict=True)
    table = {"item_id": ids, "title": titles, "tags": tags}
    table |= {
        "price": [float(p) if p else None for p in prices],
        "available": [TRUTHS.get(a) for a in available],
    }
    pq.write_table(pa.table({name: list(values) for name, values in table.items()}), path)
    return path


@pytest.mark.parametrize("write", [items_csv, items_jsonl, items_parquet])
def test_every_format_of_item_list_gives_the_same_columns(write, tmp_path):
    path = write(
        tmp_path / {"items_csv": "i.csv", "items_jsonl": "i.jsonl", "items_parquet": "i.parquet"}[write.__name__]
    )
    listed = read_item_list(path, (), SPECS)
    columns = listed.rows.of(["i1", "i2", "i3", "i4"])
    empty = () if write is not items_csv else None  # an empty list is a value where the format can write one
    assert columns == (EXPECTED[0], ItemColumn("tags", "list", (("x", "y"), empty, None, ("z",))), EXPECTED[2])
    assert listed.rows.of(["i3", "gone"])[0].values == (7.5, None)
    assert read_item_list(path, ["tags"], SPECS).texts["i1"] in ("x, y", "x|y")


def test_a_missing_column_and_a_wrong_value_name_the_file(tmp_path):
    path = items_csv(tmp_path / "i.csv")
    with pytest.raises(DataError, match="no column 'brand'"):
        read_item_list(path, (), parse_specs(["brand"]))
    assert read_item_list(path, (), parse_specs(["brand", "price"]), found=True).rows.columns[0].name == "price"
    with pytest.raises(DataError, match=r"i\.csv: title, row 2: 'Red' is no number"):
        read_item_list(path, (), parse_specs(["title:number"]))


# Each user leaves one of the four items out.
HISTORIES = {f"u{n}": [f"i{m + 1}" for m in range(4) if m != n % 4] for n in range(8)}


def prepared(folder, rows=None, kept=("price", "tags:list", "available")):
    events = [(user, item) for user, items in HISTORIES.items() for item in items]
    log = Interactions.of([u for u, _ in events], [i for _, i in events], range(len(events)))
    rows = ItemRows(["i1", "i2", "i3", "i4"], EXPECTED) if rows is None else rows
    titles = {"i1": "Red", "i2": "Blue", "i3": "Old", "i4": "New"}
    return prepare_tables("shop", log, titles, folder, Settings(1, 2, 1, item_columns=kept), columns=rows)


def test_a_prepared_data_set_keeps_its_columns_and_its_fingerprint(tmp_path):
    with_columns = prepared(tmp_path / "a")
    without = prepared(tmp_path / "b", ItemRows(), ())
    assert with_columns.fingerprint == without.fingerprint  # training reads no columns
    loaded = load_dataset(tmp_path / "a")
    assert loaded.catalog.columns == EXPECTED
    assert loaded.catalog.take([2, 0]).columns[0].values == (7.5, 5.0)
    assert load_settings(tmp_path / "a")[1].item_columns == ("price", "tags:list", "available")
    assert not (tmp_path / "b" / "columns.json").exists()
    assert "item_columns" not in json.loads((tmp_path / "b" / "dataset.json").read_text())
    path = tmp_path / "a" / "columns.json"
    path.write_text(path.read_text().replace("7.5", "8.5"))
    with pytest.raises(DataError, match="changed after it was prepared"):
        load_dataset(tmp_path / "a")
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        load_dataset(tmp_path / "a")
    prepared(tmp_path / "a")  # replaces what it made before
    assert load_dataset(tmp_path / "a").catalog.columns == EXPECTED


def test_prepare_keeps_the_columns_that_it_is_told(tmp_path):
    items = items_csv(tmp_path / "items.csv")
    log = tmp_path / "log.csv"
    rows = [f"{user},{item},{n}" for user, items in HISTORIES.items() for n, item in enumerate(items)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    own = ["prepare", "shop", "--interactions", log, "--items", items, "--k-core", 1, "--candidates", 2, "--json"]
    done = run(*own, "--out", tmp_path / "out", "--item-columns", "price,tags:list,available")
    assert json.loads(done.stdout)["item_columns"] == {"price": "number", "tags": "list", "available": "truth"}, (
        done.stderr
    )
    assert load_dataset(tmp_path / "out").catalog.columns == EXPECTED
    wrong = run(*own, "--out", tmp_path / "no", "--item-columns", "title:number")
    assert (wrong.returncode, "is no number" in wrong.stderr, (tmp_path / "no").exists()) == (4, True, False)


def test_ml_100k_has_genres_and_years(tmp_path):
    folder = write_recbole(tmp_path / "src")
    rows = read_columns(folder, parse_specs(["genres", "year"]))
    genres, year = rows.columns
    assert (genres.kind, year.kind) == ("list", "number")
    assert all(value is None or 1900 < value < 2100 for value in year.values)
    assert len(genres.values) == len(rows.ids)
    with pytest.raises(UsageError, match="no item column 'price'"):
        read_columns(folder, parse_specs(["price"]))


def test_a_bundle_holds_columns_and_old_ones_have_none(tmp_path):
    bundle = tiny_bundle(tmp_path, columns=COLUMNS).bundle
    assert Bundle.open(bundle.folder).columns == COLUMNS
    assert "item-columns.json" in bundle.manifest["files"]
    assert tiny_bundle(tmp_path, name="old").bundle.columns == ()
    path = bundle.folder / "item-columns.json"
    path.write_text(path.read_text().replace("Red", "Rot"))
    with pytest.raises(BundleError, match="wrong sha256"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no list of columns"),
        ({"columns": [{"name": "a", "kind": "text"}]}, "no name or no values"),
        ({"columns": [{"name": "a", "kind": "blob", "values": [None] * 40}]}, "unknown type"),
        ({"columns": [{"name": "a", "kind": "text", "values": ["x"]}]}, "1 values for 40 items"),
        ({"columns": [{"name": "a", "kind": "number", "values": ["x"] * 40}]}, "is no number"),
        ({"columns": [{"name": "a", "kind": "number", "values": [True] * 40}]}, "is no number"),
        ({"columns": [{"name": "a", "kind": "number", "values": [1e999] * 40}]}, "is no number"),
        ({"columns": [{"name": "a", "kind": "number", "values": [10**400] * 40}]}, "is no number"),
        ({"columns": [{"name": "a", "kind": "list", "values": [[1]] * 40}]}, "is no list"),
        ({"columns": [{"name": "a\n", "kind": "text", "values": [None] * 40}]}, "no name of a column"),
        ({"columns": [{"name": "a", "kind": "text", "values": [None] * 40}] * 2}, "same name"),
        ("[]", "does not hold a JSON object"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, content, words):
    bundle = tiny_bundle(tmp_path, columns=COLUMNS).bundle
    (bundle.folder / "item-columns.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BundleError, match=words):
        _ = Bundle(bundle.folder, bundle.manifest).columns


def test_added_items_get_the_columns_that_their_list_has(tmp_path):
    bundle = tiny_bundle(tmp_path, columns=COLUMNS).bundle
    (tmp_path / "new.csv").write_text(
        "item_id,title,price,colour,weight\nn1,Violet Forest,12.5,Violet,3\nn2,Dim Sea,,,4\n"
    )
    done = run("catalog", "add", bundle.folder, tmp_path / "new.csv", "--out", tmp_path / "more.delrec")
    assert done.returncode == 0, done.stderr
    more = Bundle.open(tmp_path / "more.delrec")
    by_name = {column.name: column.values for column in more.columns}
    assert [by_name[name][len(TITLES) :] for name in ("colour", "price", "new", "tags")] == [
        ("Violet", None),
        (12.5, None),
        (None, None),
        (None, None),
    ]
    assert by_name["colour"][: len(TITLES)] == COLUMNS[0].values
    with Recommender.load(more.folder, threads=1) as recommender:
        answer = recommender.recommend([TITLES[0]], where='colour = "Violet" and price > 12')
        assert [item.title for item in answer.items] == ["Violet Forest"]
    again = add_items(more.folder, {"n3": "Third"}, rows=ItemRows(["n3"], (ItemColumn("price", "number", (1.0,)),)))
    assert Bundle.open(again.folder).columns[1].values[-3:] == (12.5, None, 1.0)
    for column, words in (
        (ItemColumn("weight", "number", (1.0,)), "no item column"),
        (ItemColumn("price", "text", ("1",)), "is text here"),
    ):
        with pytest.raises(UsageError, match=words):
            add_items(more.folder, {"n4": "Fourth"}, rows=ItemRows(["n4"], (column,)))
    assert len(Bundle.open(more.folder).items.ids) == len(TITLES) + 3
    old = tiny_bundle(tmp_path, name="old").bundle
    assert run("catalog", "add", old.folder, tmp_path / "new.csv").returncode == 0
    assert Bundle.open(old.folder).columns == ()


def test_columns_of_a_bundle_are_set_without_training(tmp_path):
    bundle = tiny_bundle(tmp_path, columns=COLUMNS).bundle
    (tmp_path / "new.csv").write_text("sku,price,size,new\ni0,99,XL,no\ni1,,S,\ni1,5,M,\ngone,1,L,yes\n")
    words = [bundle.folder, tmp_path / "new.csv", "--columns", "item=sku", "--item-columns", "price,size,new"]
    done = run("catalog", "columns", *words, "--json")
    result = json.loads(done.stdout)
    assert (result["items"], result["unknown"], result["columns"]["size"]) == (2, 1, "text"), done.stderr
    by_name = {column.name: column for column in Bundle.open(bundle.folder).columns}
    assert by_name["price"].values == (99.0, None, *COLUMNS[1].values[2:])
    assert by_name["size"].values == ("XL", "S", *[None] * (len(TITLES) - 2))
    assert by_name["new"].values == (False, None, *COLUMNS[2].values[2:])
    assert (by_name["colour"], by_name["tags"]) == (COLUMNS[0], COLUMNS[3])
    with Recommender.load(bundle.folder, threads=1) as recommender:
        assert [item.title for item in recommender.recommend([], where='size = "XL"').items] == [TITLES[0]]
    before = (bundle.folder / "manifest.json").read_bytes()
    for option, status in (("weight", 4), ("size:number", 4), ("", 2)):
        wrong = run("catalog", "columns", *words[:4], "--item-columns", option)
        assert (wrong.returncode, "Traceback" in wrong.stderr) == (status, False), wrong.stderr
    (tmp_path / "other.csv").write_text("item_id,price\nx,5\n")
    assert run("catalog", "columns", bundle.folder, tmp_path / "other.csv", "--item-columns", "price").returncode == 2
    assert (bundle.folder / "manifest.json").read_bytes() == before
    old = tiny_bundle(tmp_path, name="old").bundle
    assert run("catalog", "columns", old.folder, *words[1:], "--out", tmp_path / "x.delrec").returncode == 0
    assert [column.name for column in Bundle.open(tmp_path / "x.delrec").columns] == ["price", "size", "new"]
    assert Bundle.open(old.folder).columns == ()
