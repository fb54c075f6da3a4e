"""Metrics of lists: RecTools' values for the same lists, values computed by hand, and intervals."""

import json

import numpy as np
import pytest

from delrec_lite.data.columns import LIST, TEXT, ItemColumn
from delrec_lite.data.types import Catalog, Dataset
from delrec_lite.evaluation import beyond, sets
from delrec_lite.evaluation.categories import Categories
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.metrics import Ranks, per_user
from delrec_lite.evaluation.protocol import best_lists
from tests.rectools_values import FILE, ITEMS, values, world

COMMITTED = json.loads(FILE.read_text(encoding="utf-8"))
# Not in a list.
FAR = 10_000


def dataset(facts):
    """Every user's history is the training part; the target is the last item, behind one that validates."""
    columns = (
        ItemColumn("genre", LIST, tuple(map(tuple, facts["genres"]))),
        ItemColumn("brand", TEXT, tuple(facts["brands"])),
    )
    titles = tuple(f"Title {n}" for n in range(ITEMS))
    catalog = Catalog(tuple(f"i{n}" for n in range(ITEMS)), titles, columns=columns)
    sequences = tuple(np.array([*h, 0, t]) for h, t in zip(facts["train"], facts["targets"], strict=True))
    return Dataset("w", catalog, tuple(f"u{n}" for n in range(len(sequences))), sequences, "w", repeats=True)


def padded(lists, k):
    return np.array([[*row[:k], *([-1] * (k - len(row[:k])))] for row in lists], np.int32)


def ours(facts):
    """Our values of what RecTools computes, in its form."""
    data, out = dataset(facts), {}
    targets = np.array(facts["targets"])
    for k in (5, 10):
        lists = padded(facts["lists"], k)
        known = ItemFacts.of(data, [lists], np.array(facts["vectors"], np.float32))
        at = np.where((lists == targets[:, None]).any(1), (lists == targets[:, None]).argmax(1) + 1, FAR)
        found = {name: per_user(at, f"{name}@{k}") for name in ("HR", "Recall", "MAP", "MRR", "NDCG")}
        found |= {
            "novelty": beyond.novelty(lists, known),
            "popularity": beyond.popularity(lists, known.counts),
            "serendipity": beyond.serendipity(lists, targets, known.counts),
            **beyond.diversities(lists, known),
        }
        out[str(k)] = {name: float(each.mean(dtype=np.float64)) for name, each in found.items()}
        out[str(k)]["coverage"] = beyond.coverage(lists, ITEMS).value
    return out


def assert_same(one, other):
    assert one.keys() == other.keys()
    for k, of_k in one.items():
        assert of_k == pytest.approx(other[k], abs=1e-6)


def test_the_committed_values_of_rectools_are_ours():
    assert COMMITTED["made_by"].startswith("RecTools 0.")
    assert_same(ours(COMMITTED["world"]), COMMITTED["values"])


def test_rectools_itself_gives_our_values_for_other_lists():
    pytest.importorskip("rectools", reason="RecTools is not installed here; its committed values are compared")
    assert_same(ours(world(5)), values(world(5)))


def lists_of(*rows):
    return padded(rows, 10)


def test_gini_of_known_counts():
    assert beyond.gini(lists_of([0, 1, 2, 3]), 4).value == pytest.approx(0)
    assert beyond.gini(lists_of([0], [0], [0]), 4).value == pytest.approx(3 / 4)  # of n items the most is 1 - 1 / n
    assert beyond.gini(lists_of([0, 1], [0]), 2).value == pytest.approx(1 / 6)


def left_out(metric, lists, items):
    """The error of the jackknife: each user left out in turn."""
    values = np.array([metric(np.delete(lists, user, 0), items).value for user in range(len(lists))])
    return np.sqrt(((values - values.mean()) ** 2).sum())


@pytest.mark.parametrize(("metric", "tolerance"), [(beyond.coverage, 1e-9), (beyond.gini, 0.03)])
def test_the_intervals_of_coverage_and_gini_are_those_of_leaving_users_out(metric, tolerance):
    rng = np.random.default_rng(4)
    items, weights = 2000, 1 / np.arange(1, 2001)
    lists = np.array([rng.choice(items, 10, replace=False, p=weights / weights.sum()) for _ in range(150)], np.int32)
    found = metric(lists, items)
    half = 1.959963984540054 * left_out(metric, lists, items)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), rel=tolerance)


def test_intervals_of_lists_cover_what_more_users_would_show():
    """Draws of users from one population: the value of as many other users is in the interval as often as it says."""
    rng = np.random.default_rng(9)
    items, weights = 300, 1 / np.arange(1, 301)
    people = np.array([rng.choice(items, 10, replace=False, p=weights / weights.sum()) for _ in range(4000)], np.int32)
    for metric in (beyond.coverage, beyond.gini):
        draws = [metric(people[rng.choice(4000, 100, replace=False)], items) for _ in range(200)]
        expected = np.mean([draw.value for draw in draws])
        assert np.mean([draw.low <= expected <= draw.high for draw in draws]) > 0.9


def test_calibration_compares_the_lists_categories_with_the_historys():
    genres = (("a",), ("a", "b"), ("b",), (), ("a",))
    categories = Categories.of([ItemColumn("price", "number", (1.0,) * 5), ItemColumn("genre", LIST, genres)])
    assert categories.column == "genre"
    histories = [np.array([0, 1]), np.array([0, 2]), np.array([3]), np.array([2, 3])]
    found = categories.miscalibration(lists_of([0, 1], [0], [0], [2, 3]), histories)
    wanted, given = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    expected = (wanted * np.log(wanted / (0.99 * given + 0.01 * wanted))).sum()
    np.testing.assert_allclose(found, [0, expected, np.nan, 0], atol=1e-6)
    assert beyond.of_mean(found).value == pytest.approx(expected / 3, abs=1e-6)


def test_a_column_of_free_text_is_no_category():
    brand = ItemColumn("brand", TEXT, tuple("xyxyx" * 60))
    plot = ItemColumn("plot", TEXT, tuple(f"story {n}" for n in range(300)))
    assert Categories.of([plot, brand]).column == "brand"
    assert Categories.of([plot]) is None
    assert Categories.of([]) is None


def test_lists_leave_out_the_history_and_are_filled_up():
    scores = np.array([[5, 4, 4, 2, 1], [1, 1, 1, 1, 1]], np.float32)
    histories, targets = [np.array([0]), np.array([0, 1, 2])], np.array([3, 4])
    assert best_lists(scores, histories, targets, k=3).tolist() == [[1, 2, 3], [3, 4, -1]]
    assert best_lists(scores, histories, targets, repeats=True, k=2).tolist() == [[0, 1], [0, 1]]


def test_very_many_users_are_represented_by_some(monkeypatch):
    monkeypatch.setattr(sets, "MOST_BYTES", 1)  # 64 users are the least
    rng = np.random.default_rng(1)
    sequences = [rng.choice(6, 3, replace=False) for _ in range(1000)]
    few = sets.ItemSets.of_users(sequences, np.arange(6), 6)
    assert few.bits.shape == (6, 8)
    monkeypatch.undo()
    every = sets.ItemSets.of_users(sequences, np.arange(6), 6)
    assert every.sizes.sum() == 3000
    first, second = np.triu_indices(6, 1)
    assert abs(few.cosine_distances(first, second) - every.cosine_distances(first, second)).mean() < 0.1


def test_words_take_the_place_of_text_features():
    titles = ("Red River", "red lamp", "Blue Lamp")
    data = Dataset("w", Catalog(("a", "b", "c"), titles), ("u",), (np.array([0, 1, 2]),), "w")
    facts = ItemFacts.of(data, [np.array([[0, 1, 2]], np.int32)])
    assert facts.text_distances(np.array([0, 0]), np.array([1, 2])).tolist() == pytest.approx([0.5, 1.0])
    assert facts.text_source.startswith("words")


def test_popularity_of_what_is_recommended():
    counts = np.array([5, 4, 3, 2, 1])
    assert beyond.popularity_shares(lists_of([0, 4], [0]), counts) == [0.66667, 0, 0, 0, 0.33333]
    assert beyond.most_recommended(lists_of([1, 0], [1]), "abcde", 1) == [{"title": "b", "share": 1.0}]


def test_metrics_of_lists_of_a_data_set_without_columns():
    facts = {**COMMITTED["world"]}
    data = dataset(facts)
    bare = Dataset(
        data.name, Catalog(data.catalog.ids, data.catalog.titles), data.user_ids, data.sequences, "w", repeats=True
    )
    lists = padded(facts["lists"], 10)
    ranks = Ranks(np.ones(len(lists), int), np.ones(len(lists), int), 1.0, lists=lists)
    with_columns = beyond.list_metrics(ranks, data.test(), ItemFacts.of(data, [lists]))
    without = beyond.list_metrics(ranks, bare.test(), ItemFacts.of(bare, [lists]))
    assert list(with_columns) == [metric.key for metric in beyond.METRICS]
    assert set(with_columns) - set(without) == {"column diversity@10", "miscalibration@10"}
    for estimate in with_columns.values():
        assert estimate.low <= estimate.value <= estimate.high
