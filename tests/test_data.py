"""From a log to sequences, splits and candidate sets: what comes out, and what is refused."""

import dataclasses
import gzip
import json
import re
from datetime import datetime

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.candidates import sample_candidates
from delrec_lite.data.movielens import read_genres
from delrec_lite.data.prepare import build_dataset, k_core_rows, prepare, prepare_tables
from delrec_lite.data.readers import Columns, Interactions, parse_columns, read_interactions, read_texts, read_titles
from delrec_lite.data.store import Settings, load_candidates, load_dataset, load_settings
from delrec_lite.data.titles import readable_title, unique_titles
from delrec_lite.errors import DataError, StorageError, UsageError
from tests.logs import READABLE, write_grouplens, write_recbole


@pytest.mark.parametrize(
    ("title", "year", "readable"),
    [
        ("Matrix, The (1999)", "", "The Matrix (1999)"),
        ("Fish Called Wanda, A", "1988", "A Fish Called Wanda (1988)"),
        ("Affair to Remember, An", "1957", "An Affair to Remember (1957)"),
        ("Postino, Il", "1994", "Il Postino (1994)"),
        ("Boot, Das", "1981", "Das Boot (1981)"),
        ("Enfer, L'", "1994", "L'Enfer (1994)"),
        ("Seventh Seal, The (Sjunde inseglet, Det)", "1957", "The Seventh Seal (Det Sjunde inseglet) (1957)"),
        ("Convent, The (Convento, O)", "1995", "The Convent (O Convento) (1995)"),
        ("Star Maker, The (Uomo delle stelle, L')", "1995", "The Star Maker (L'Uomo delle stelle) (1995)"),
        ("Fille seule, La (A Single Girl)", "1995", "La Fille seule (A Single Girl) (1995)"),
        (
            "Shanghai Triad (Yao a yao yao dao waipo qiao)",
            "1995",
            "Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)",
        ),
        ("Marlene Dietrich: Shadow and Light (1996) ", "", "Marlene Dietrich: Shadow and Light (1996)"),
        ("Land Before Time III (1995) (V)", "", "Land Before Time III (1995)"),
        ("Bye Bye, Love", "1995", "Bye Bye, Love (1995)"),
        ("Corrina, Corrina", "1994", "Corrina, Corrina (1994)"),
        ("Truth or Consequences, N.M.", "1997", "Truth or Consequences, N.M. (1997)"),
        ("1984", "1984", "1984 (1984)"),
        ("unknown", "", "unknown"),
    ],
)
def test_titles_are_made_readable(title, year, readable):
    assert readable_title(title, year) == readable


def test_equal_titles_get_numbers_and_the_most_used_keeps_its_own():
    titles = ["Amy (1997)", "Amy (1997)", "Amy (1997)", "Solo", "Solo", "Amy [2] (1997)"]
    unique = unique_titles(titles, [1, 5, 1, 2, 2, 0])
    assert unique == ("Amy [3] (1997)", "Amy (1997)", "Amy [4] (1997)", "Solo", "Solo [2]", "Amy [2] (1997)")


def test_both_layouts_of_movielens_give_the_same_data_set(tmp_path):
    recbole = prepare("ml-100k", write_recbole(tmp_path / "a"), tmp_path / "out-a", k_core=2, m=3)
    grouplens = prepare("ml-100k", write_grouplens(tmp_path / "b"), tmp_path / "out-b", k_core=2, m=3)
    assert recbole.fingerprint == grouplens.fingerprint
    assert recbole.catalog.titles[:6] == READABLE
    assert set(recbole.catalog.titles[6:]) == {"Chasing Amy (1997)", "Chasing Amy [2] (1997)"}
    for name in ("candidates-valid.json", "candidates-test.json", "catalog.json", "users.json"):
        assert (tmp_path / "out-a" / name).read_bytes() == (tmp_path / "out-b" / name).read_bytes()


def test_k_core_is_repeated_until_users_and_items_satisfy_it():
    # Item 3 has one interaction; without it user 2 has two, and without user 2 item 2 has two.
    users = np.array([0, 0, 0, 1, 1, 1, 3, 3, 3, 2, 2, 2])
    items = np.array([0, 1, 4, 0, 1, 4, 0, 1, 4, 2, 0, 3])
    core = k_core_rows(users, items, 3)
    assert sorted(set(users[core])) == [0, 1, 3]
    assert sorted(set(items[core])) == [0, 1, 4]
    assert not k_core_rows(users, items, 4).any()


def test_sequences_are_in_the_order_of_time_and_ties_in_that_of_the_file():
    log = Interactions.of(
        ("b", "a", "b", "a", "b", "a"), ("x", "y", "z", "z", "y", "x"), np.array([3, 1, 2, 1, 2, 0.0])
    )
    data = build_dataset("t", log, {"x": "X", "y": "Y", "z": "Z"}, 1)
    spelled = {u: "".join(data.catalog.ids[i] for i in s) for u, s in zip(data.user_ids, data.sequences, strict=True)}
    assert spelled == {"a": "xyz", "b": "zyx"}


def test_numbers_order_ids_as_numbers():
    ids = tuple(str(n) for n in (10, 9, 100, 1))
    log = Interactions.of(("2",) * 4 + ("10",) * 4, ids * 2, np.arange(8.0))
    data = build_dataset("t", log, {i: f"T{i}" for i in ids}, 1)
    assert (data.catalog.ids, data.user_ids) == (("1", "9", "10", "100"), ("2", "10"))


def test_users_too_short_for_leave_one_out_are_dropped():
    log = Interactions.of(("a", "a", "b", "b", "b"), ("x", "y", "x", "y", "x"), np.arange(5.0))
    assert build_dataset("t", log, {"x": "X", "y": "Y"}, 1).user_ids == ("b",)


@pytest.fixture
def prepared(tmp_path):
    return prepare(
        "ml-100k", write_recbole(tmp_path / "src"), tmp_path / "out", k_core=2, m=3, seed=7
    ), tmp_path / "out"


def test_candidates_hold_the_positive_once_and_no_item_the_user_has_seen(prepared):
    data, folder = prepared
    for split, sets in load_candidates(folder).items():
        targets = getattr(data, split)().targets
        assert sets.items.shape == (len(data.user_ids), 3)
        for row, target, sequence in zip(sets.items, targets, data.sequences, strict=True):
            assert len(set(row)) == 3
            assert set(row) & set(sequence) == {target}
    places = (sets.items == targets[:, None]).argmax(1)
    assert len(set(places)) > 1


def test_candidates_depend_on_seed_and_split_only(prepared):
    data, folder = prepared
    saved = load_candidates(folder)
    for split in ("valid", "test"):
        assert (sample_candidates(data, split, 3, 7).items == saved[split].items).all()
        assert (sample_candidates(data, split, 3, 8).items != saved[split].items).any()


def test_too_few_unseen_items_name_the_user(prepared):
    with pytest.raises(DataError, match="user '1' has 2 unseen items, 3 negatives"):
        sample_candidates(prepared[0], "test", 4, 7)


def test_a_stored_data_set_reads_back_equal(prepared):
    data, folder = prepared
    loaded = load_dataset(folder)
    assert dataclasses.replace(loaded, sequences=()) == dataclasses.replace(data, sequences=())
    assert all((a == b).all() for a, b in zip(loaded.sequences, data.sequences, strict=True))
    about = json.loads((folder / "dataset.json").read_text())
    assert (about["users"], about["k_core"], about["m"], about["seed"]) == (12, 2, 3, 7)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out", "src"]


@pytest.mark.parametrize("name", ["dataset.json", "catalog.json", "users.json", "sequences.npz"])
def test_a_damaged_data_set_is_refused(prepared, name):
    path = prepared[1] / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="out"):
        load_dataset(prepared[1])
    path.unlink()
    with pytest.raises(DataError, match="out"):
        load_dataset(prepared[1])


def test_a_title_changed_by_hand_is_refused(prepared):
    path = prepared[1] / "catalog.json"
    path.write_text(path.read_text(encoding="utf-8").replace("1995", "1996"), encoding="utf-8")
    with pytest.raises(DataError, match="fingerprint differs"):
        load_dataset(prepared[1])


def test_candidates_of_another_data_set_are_refused(prepared):
    path = prepared[1] / "candidates-test.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "dataset": "another"}))
    with pytest.raises(DataError, match="belongs to another data set"):
        load_candidates(prepared[1])


def test_preparing_again_replaces_and_another_folder_is_not_overwritten(prepared, tmp_path):
    prepare("ml-100k", tmp_path / "src", prepared[1], k_core=2, m=2)
    assert load_candidates(prepared[1])["test"].items.shape == (12, 2)
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="is no data set"):
        prepare("ml-100k", tmp_path / "src", foreign, k_core=2, m=2)
    assert (foreign / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1\t2\t3", r"x\.inter, row 74: 3 fields instead of 4"),
        ("1\t2\t3\tsoon", r"x\.inter, row 74: timestamp is 'soon'"),
        ("1\t2\t3\tnan", r"x\.inter, row 74: timestamp is 'nan'"),
        ("\t2\t3\t4", r"x\.inter, row 74: user_id is empty"),
        ("1\t\t3\t4", r"x\.inter, row 74: item_id is empty"),
    ],
)
def test_a_malformed_row_is_named_with_file_and_number(tmp_path, row, says):
    folder = write_recbole(tmp_path / "src")
    with (folder / "x.inter").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(DataError, match=says):
        prepare("ml-100k", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="neither u.data nor one .inter file"):
        prepare("ml-100k", tmp_path, tmp_path / "out")
    folder = write_recbole(tmp_path / "src")
    with pytest.raises(DataError, match="ml-100k has no interactions after the 50-core"):
        prepare("ml-100k", folder, tmp_path / "out", k_core=50)
    (folder / "x.item").write_text("item_id:token\tmovie_title:token_seq\trelease_year:token\n1\tToy Story\t1995\n")
    with pytest.raises(DataError, match="item '2' of ml-100k has interactions but no title"):
        prepare("ml-100k", folder, tmp_path / "out", k_core=2)
    (folder / "x.item").write_text("item_id:token\tname:token_seq\n")
    with pytest.raises(DataError, match="no column 'movie_title'"):
        prepare("ml-100k", folder, tmp_path / "out")


def test_a_csv_file_with_other_column_names(tmp_path):
    (tmp_path / "log.csv").write_text("ts,sku,uid\n" + "".join(f"{t},s{t % 4},u{t // 4}\n" for t in range(8)))
    (tmp_path / "items.csv").write_text("sku,name\n" + "".join(f's{n},"Lamp, small {n}"\n' for n in range(4)))
    columns = parse_columns("user=uid, item=sku,time=ts,title=name")
    log, titles = read_interactions(tmp_path / "log.csv", columns), read_titles(tmp_path / "items.csv", columns)
    with pytest.raises(DataError, match="every item, so there are no unseen items"):
        prepare_tables("shop", log, titles, tmp_path / "out", Settings(2, 2, 1))
    data = build_dataset("shop", log, titles, 2)
    assert data.catalog.titles[0] == "Lamp, small 0"
    assert [s.tolist() for s in data.sequences] == [[0, 1, 2, 3]] * 2
    assert parse_columns("") == Columns()
    with pytest.raises(UsageError, match="'price'"):
        parse_columns("price=p")
    with pytest.raises(UsageError, match="user is given twice"):
        parse_columns("user=a,user=b")


def shop(folder, suffix, write):
    """The same twelve purchases and their items, written by ``write(path, header, rows)``; times are dates."""
    log = [(f"u{n % 2}", f"s{n // 2}", f"2024-03-{n + 1:02}T10:00:00") for n in range(12)]
    items = [(f"s{n}", f"Lamp {n}") for n in range(6)]
    write(folder / f"log{suffix}", ("user_id", "item_id", "timestamp"), log)
    write(folder / f"items{suffix}", ("item_id", "title"), items)
    return read_interactions(folder / f"log{suffix}"), read_titles(folder / f"items{suffix}")


def write_text(separator, kinds=("", "", "")):
    def write(path, header, rows):
        head = separator.join(name + kind for name, kind in zip(header, kinds, strict=False))
        text = "".join(separator.join(row) + "\n" for row in [(head,), *rows])
        (gzip.open if path.suffix == ".gz" else open)(path, "wt").write(text)

    return write


def write_parquet(path, header, rows):
    columns = {name: [row[n] for row in rows] for n, name in enumerate(header)}
    if "timestamp" in columns:
        columns["timestamp"] = [datetime.fromisoformat(text) for text in columns["timestamp"]]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".csv", write_text(",")),
        (".csv", write_text(";")),
        (".tsv", write_text("\t")),
        (".csv.gz", write_text(",")),
        (".inter", write_text("\t", (":token", ":token", ":float"))),
        (".parquet", write_parquet),
    ],
)
def test_every_layout_of_a_table_gives_the_same_data_set(tmp_path, suffix, write):
    log, titles = shop(tmp_path, suffix, write)
    data = build_dataset("shop", log, titles, 2)
    assert data.user_ids == ("u0", "u1")
    assert [s.tolist() for s in data.sequences] == [list(range(6))] * 2
    assert data.catalog.titles[5] == "Lamp 5"
    assert log.times[1] - log.times[0] == 86400


def test_dropped_rows_are_counted_and_the_first_shown(tmp_path):
    rows = [f"u{n % 2},s{n // 2},{n}" for n in range(12)]
    rows[3:3] = ["u1,s1", "", ",s1,4", "u1,s1,4,5"]
    rows += ["u1,s1,yesterday"] * 5
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    lamps = "".join(f"s{n},Lamp {n}\n" for n in range(6))
    (tmp_path / "items.csv").write_text("item_id,title\n" + lamps + ",\ns1,Desk\ns9,\n")
    says = r"log.csv, row 5: 2 fields instead of 3; row 7: user_id is empty; row 8: 4 fields.*; 8 malformed rows"
    with pytest.raises(DataError, match=says):
        read_interactions(tmp_path / "log.csv")
    bad = BadRows("drop")
    log, titles = read_interactions(tmp_path / "log.csv", bad=bad), read_titles(tmp_path / "items.csv", bad=bad)
    assert [(m.path.name, m.count) for m in bad.files] == [("log.csv", 8), ("items.csv", 2)]
    assert [row for row, _ in bad.files[0].first] == [5, 7, 8, 18, 19]
    assert bad.files[1].first == (
        (9, "item 's1' has a second title 'Desk'"),
        (10, "item 's9' has an empty title, and the LLM reads titles"),
    )
    assert [s.tolist() for s in build_dataset("shop", log, titles, 2).sequences] == [list(range(6))] * 2


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_broken_parquet_file_is_one_clear_error(tmp_path, cut):
    shop(tmp_path, ".parquet", write_parquet)
    content = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(content[:-cut])
    with pytest.raises(DataError, match="log.parquet"):
        read_interactions(tmp_path / "log.parquet")


def test_a_chronological_split_trains_only_on_earlier_interactions(tmp_path):
    rng = np.random.default_rng(3)
    users, items = [str(n) for n in rng.integers(0, 30, 2000)], [str(n) for n in rng.integers(0, 400, 2000)]
    log = Interactions.of(users, items, rng.integers(0, 500, 2000))
    titles = {str(n): f"T{n}" for n in range(400)}
    data = prepare_tables("t", log, titles, tmp_path / "out", Settings(1, 5, 1, "chronological"))
    loaded = load_dataset(tmp_path / "out")
    assert loaded.fingerprint == data.fingerprint
    assert (loaded.cuts == data.cuts).all()
    splits = {part: getattr(loaded, part)() for part in ("valid", "test")}
    counts = [sum(map(len, loaded.train())), len(splits["valid"]), len(splits["test"])]
    assert np.abs(np.array(counts) / 2000 - [0.8, 0.1, 0.1]).max() < 0.01
    times = {u: np.sort(log.times[log.users == n]) for n, u in enumerate(log.user_ids)}
    last = max(times[u][cut - 1] for u, cut in zip(loaded.user_ids, loaded.cuts[:, 0], strict=True) if cut)
    first = min(times[loaded.user_ids[u]][place] for u, place in loaded.questions("test"))
    assert last < first
    for part, sets in load_candidates(tmp_path / "out").items():
        assert sets.items.shape == (len(splits[part]), 5)
        assert ((sets.items == splits[part].targets[:, None]).sum(1) == 1).all()
    with pytest.raises(DataError, match="split by time, has no interactions in training"):
        build_dataset("t", dataclasses.replace(log, times=np.zeros(2000)), titles, 1, "chronological")


@pytest.mark.real
def test_movielens_100k_has_the_known_size(tmp_path):
    from delrec_lite.hub.pull import pull

    data = prepare("ml-100k", pull("ml-100k").folder, tmp_path / "out")
    assert (len(data.user_ids), len(data.catalog)) == (943, 1349)
    assert sum(len(s) for s in data.sequences) == 99287
    assert len(set(data.catalog.titles)) == 1349
    assert {"Il Postino (1994)", "The Good, The Bad and The Ugly (1966)"} < set(data.catalog.titles)
    assert not [t for t in data.catalog.titles if re.search(r", (The|An?|L[ae]s?)( \(|\))|  |\ufffd", t)]
    assert [t for t in data.catalog.titles if not t.endswith(")")] == ["unknown"]
    # The same whichever mirror delivered it.
    assert data.fingerprint == "edd39bdbf1d1329a3f3e8fbfc9b742f5ead3017ebc84f1d12b6f12d7e1af685e"


def test_side_text_is_kept_beside_the_titles_and_without_it_nothing_changes(tmp_path):
    (tmp_path / "items.csv").write_text(
        "item_id,title,brand,category\n1,Soap,Acme, Bath \n2,Comb,,Hair\n3,Brush,,\n4,Cup,,\n"
    )
    texts = read_texts(tmp_path / "items.csv", ("category", "brand"))
    assert texts == {"1": "Bath, Acme", "2": "Hair", "3": "", "4": ""}
    titles = read_titles(tmp_path / "items.csv")
    log = Interactions.of(["u"] * 3 + ["v"] * 3, ["1", "2", "3", "2", "3", "4"], np.arange(6.0))
    described = prepare_tables("t", log, titles, tmp_path / "a", Settings(1, 2, 1, text_columns=("x",)), texts=texts)
    plain = prepare_tables("t", log, titles, tmp_path / "b", Settings(1, 2, 1))
    assert load_dataset(tmp_path / "a").catalog == described.catalog
    assert described.catalog.descriptions == ("Soap, Bath, Acme", "Comb, Hair", "Brush", "Cup")
    assert load_settings(tmp_path / "a")[1].text_columns == ("x",)
    assert described.fingerprint != plain.fingerprint
    # The fingerprint of this data set before there was side text, and its files.
    assert plain.fingerprint == "a32a3da0d56e6a39bcf0a90ba5bd622cacb8c4c2590543e259fb044150b6685a"
    assert set(json.loads((tmp_path / "b" / "catalog.json").read_text())) == {"ids", "titles"}
    assert "text_columns" not in json.loads((tmp_path / "b" / "dataset.json").read_text())


def test_the_parts_of_a_list_are_joined(tmp_path):
    rows = {"item_id": ["1", "2"], "tags": [["a", "b"], None]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "items.parquet")
    assert read_texts(tmp_path / "items.parquet", ("tags",)) == {"1": "a, b", "2": ""}


def test_genres_are_the_side_text_of_movielens_in_both_layouts(tmp_path):
    (tmp_path / "a").mkdir()
    flags = ["0"] * 19
    flags[5] = flags[3] = "1"
    (tmp_path / "a" / "u.item").write_text("7|X (1995)|01-Jan-1995||http://x|" + "|".join(flags) + "\n")
    (tmp_path / "b").mkdir()
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (tmp_path / "b" / "x.item").write_text(head + "7\tX\t1995\tComedy Animation\n")
    for layout in "ab":
        assert read_genres(tmp_path / layout, ("genres",)) == {"7": "Animation, Comedy"}
    with pytest.raises(UsageError, match="brand"):
        read_genres(tmp_path / "a", ("brand",))
