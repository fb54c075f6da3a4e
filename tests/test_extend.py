"""A data set that grows: old users, items and questions stay what they were, and no row comes in twice."""

import numpy as np
import pyarrow as pa
import pytest

from delrec_lite.data.columns import ItemRows
from delrec_lite.data.extend import Known, extend
from delrec_lite.data.kept import load_source, load_times
from delrec_lite.data.other_log import same_unit
from delrec_lite.data.prepare import prepare_tables
from delrec_lite.data.readers import Interactions, ItemList
from delrec_lite.data.store import Settings, load_candidates, load_dataset, load_settings
from delrec_lite.data.times import read_times
from delrec_lite.data.waiting import Waiting
from delrec_lite.errors import DataError

TITLES = {f"i{n}": f"Lamp {n}" for n in range(40)}


def log_of(rows):
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    return Interactions.of(users, items, times)


def listed(*items, **titles):
    return ItemList({**{item: TITLES[item] for item in items}, **titles}, {}, ItemRows())


@pytest.fixture
def rows():
    """Users walk a ring of thirty items, one step each time unit."""
    rng = np.random.default_rng(5)
    walks = [(f"u{user}", int(rng.integers(30)), int(rng.integers(8, 14))) for user in range(12)]
    steps = [
        (user, f"i{(start + n) % 30}", 100.0 * n + k)
        for k, (user, start, count) in enumerate(walks)
        for n in range(count)
    ]
    return sorted(steps, key=lambda row: row[2])


def prepared(rows, folder, **settings):
    dataset = prepare_tables(
        "shop", log_of(rows), TITLES, folder, Settings(**{"k_core": 1, "m": 5, "seed": 3, **settings})
    )
    times = load_times(folder, dataset.interactions)
    return Known(dataset, times, load_candidates(folder), load_settings(folder)[1])


def as_ids(dataset):
    pairs = zip(dataset.user_ids, dataset.sequences, strict=True)
    return {user: [dataset.catalog.ids[i] for i in sequence] for user, sequence in pairs}


def after(known, extended):
    return Known(extended.dataset, extended.times, extended.candidates, known.settings, extended.waiting)


@pytest.mark.parametrize("split", ["leave-one-out", "chronological"])
def test_two_parts_of_a_log_give_the_sequences_of_the_whole(rows, tmp_path, split):
    cut = len(rows) * 7 // 10
    known = prepared(rows[:cut], tmp_path / "part", split=split)
    whole = prepared(rows, tmp_path / "whole", split=split).dataset
    extended = extend(known, log_of(rows[cut:]), listed(*TITLES))
    grown, old = extended.dataset, known.dataset
    assert as_ids(grown) == as_ids(whole)
    assert grown.user_ids[: len(old.user_ids)] == old.user_ids
    assert grown.catalog.ids[: len(old.catalog)] == old.catalog.ids
    assert grown.catalog.titles[: len(old.catalog)] == old.catalog.titles
    assert extended.counts.added == extended.is_new.sum() == len(rows) - cut
    assert extended.counts.known == extended.counts.older == 0
    if split == "chronological":
        cuts = dict(zip(grown.user_ids, grown.cuts.tolist(), strict=True))
        assert cuts == dict(zip(whole.user_ids, whole.cuts.tolist(), strict=True))


def test_the_same_rows_again_add_nothing(rows, tmp_path):
    known = prepared(rows[:80], tmp_path / "part")
    once = extend(known, log_of(rows[80:]), listed(*TITLES))
    again = extend(after(known, once), log_of(rows[40:]), listed(*TITLES))
    assert again.counts.added == 0
    assert again.counts.known == len(rows) - 40
    assert again.dataset.fingerprint == once.dataset.fingerprint
    assert not again.is_new.any()


def test_of_equal_rows_as_many_are_known_as_there_are(rows, tmp_path):
    twice = [*rows, rows[-1]]
    known = prepared(twice, tmp_path / "part")
    assert extend(known, log_of([rows[-1]] * 2)).counts.added == 0
    assert extend(known, log_of([rows[-1]] * 3)).counts.added == 1


def test_old_questions_keep_their_candidate_sets(rows, tmp_path):
    known = prepared(rows, tmp_path / "part")
    grown = extend(known, log_of([("u0", "i3", 1e6)]), listed("i3"))
    old, new = known.candidates["test"].items, grown.candidates["test"].items
    asked = known.dataset.questions("test")[:, 0].tolist()
    assert known.dataset.user_ids[asked[0]] == "u0"
    assert (new[1:] == old[1:]).all()
    assert grown.dataset.test().targets[0] == grown.dataset.catalog.ids.index("i3")


def test_a_user_waits_until_there_are_enough_interactions(rows, tmp_path):
    known = prepared(rows, tmp_path / "part")
    first = extend(known, log_of([("new", "i1", 1e6), ("new", "i35", 2e6)]), listed("i35"))
    assert (first.counts.waiting, first.counts.waiting_users, first.counts.added) == (2, 1, 0)
    assert first.dataset.fingerprint == known.dataset.fingerprint
    first.waiting.save(tmp_path / "waiting.json")
    held = Known(first.dataset, first.times, first.candidates, known.settings, Waiting.load(tmp_path / "waiting.json"))
    again = extend(held, log_of([("new", "i1", 1e6)]))
    assert again.counts.known == 1, "a waiting row is known"
    second = extend(held, log_of([("new", "i2", 3e6)]))  # the title of i35 waits, too
    assert (second.counts.new_users, second.counts.new_items, second.counts.waiting) == (1, 1, 0)
    assert as_ids(second.dataset)["new"] == ["i1", "i35", "i2"]


def test_late_rows_come_in_at_their_time(rows, tmp_path):
    known = prepared(rows, tmp_path / "part")
    grown = extend(known, log_of([("u0", "i39", 150.0)]), listed("i39"))
    assert grown.counts.older == 1
    assert as_ids(grown.dataset)["u0"][2] == "i39"


@pytest.mark.parametrize("rule", ["first", "last", "consecutive"])
def test_the_rule_for_duplicates_holds_for_all_rows_together(rows, tmp_path, rule):
    known = prepared(rows, tmp_path / "part", duplicates=rule)
    user, item, _ = rows[-1]
    grown = extend(known, log_of([(user, item, 1e6)]))
    assert as_ids(grown.dataset)[user].count(item) == 1
    assert extend(after(known, grown), log_of([(user, item, 1e6)])).counts.added == 0


def test_an_item_without_a_title_is_refused_or_left_out(rows, tmp_path):
    known = prepared(rows, tmp_path / "part")
    new = log_of([("u0", "x", 1e6), ("u1", "i3", 1e6)])
    with pytest.raises(DataError, match="'x' is not in the catalogue and has no title"):
        extend(known, new)
    counts = extend(known, new, drop_untitled=True).counts
    assert (counts.untitled, counts.added) == (1, 1)


def test_titles_of_trained_items_stay(rows, tmp_path):
    known = prepared(rows, tmp_path / "part")
    grown = extend(known, log_of([("u0", "i33", 1e6)]), listed("i3", i2="Renamed", i33="Lamp 1", i34="Idle"))
    assert (grown.counts.retitled, grown.counts.idle_items) == (1, 1)
    assert "Renamed" not in grown.dataset.catalog.titles
    assert grown.dataset.catalog.titles[-1] == "Lamp 1 [2]"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda user, item, time: (user, item.upper(), time), "item id 'I"),
        (lambda user, item, time: (f"'{user}'", item, time), "user id"),
        (lambda user, item, time: (user + "x", "new", time), "none of its users"),
        (lambda user, item, time: (user, item, time + 1.7e12), "look like milliseconds"),
    ],
)
def test_another_log_is_refused(rows, tmp_path, change, words):
    known = prepared([(user, item, time + 1.7e9) for user, item, time in rows], tmp_path / "part")
    with pytest.raises(DataError, match=words):
        extend(known, log_of([change(*row) for row in rows[-30:]]), listed(new="New"))


@pytest.mark.parametrize("kinds", [("us", "ns"), ("ns", "us")])
def test_dates_of_one_moment_are_equal_in_microseconds_and_nanoseconds(kinds):
    """A log whose dates need nanoseconds has other numbers than one whose dates do not."""
    moments = np.random.default_rng(0).integers(10**15, 2 * 10**15, 500).tolist()
    finer = [*(moment * 1000 for moment in moments), 1]
    parts = {"us": pa.array(moments, pa.timestamp("us")), "ns": pa.array(finer, pa.timestamp("ns"))}
    known, times = (read_times(pa.chunked_array([parts[kind]]), "at").values for kind in kinds)
    assert known.dtype != times.dtype
    np.testing.assert_array_equal(same_unit(known, times, "log")[:500], known[:500])


def test_a_counter_and_unix_times_are_not_one_unit():
    days, seconds = np.array([19_000.0, 19_700.0]), np.array([1.7e9, 1.71e9])
    for known, times in ((days, seconds), (seconds, days)):
        with pytest.raises(DataError, match="a counter"):
            same_unit(known, times, "log")
    assert same_unit(days, days + 900, "log") is not None


def test_preparation_remembers_columns_and_times(tmp_path):
    from tests.command import call

    (tmp_path / "log.csv").write_text("uid;sku;ts\n" + "".join(f"u{n % 5};i{n};{n}\n" for n in range(30)))
    (tmp_path / "items.csv").write_text("sku;name\n" + "".join(f"i{n};Lamp {n}\n" for n in range(30)))
    options = ["--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv", "--k-core", 1, "-q"]
    columns = ["--columns", "user=uid,item=sku,time=ts,title=name", "--separator", ";", "--candidates", 3]
    folders = [tmp_path / "whole", tmp_path / "large"]
    assert call("prepare", "shop", *options, *columns, "--out", folders[0]) == 0
    assert call("prepare", "shop", *options, *columns, "--out", folders[1], "--memory", "1GB") == 0
    for folder in folders:
        names, layout = load_source(folder)
        assert (names.user, names.title, layout.separator) == ("uid", "name", ";")
    times = [load_times(folder, load_dataset(folder).interactions) for folder in folders]
    assert times[0].tolist() == times[1].tolist() == sorted(range(30), key=lambda n: (n % 5, n))
