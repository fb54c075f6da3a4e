"""Ranks, metrics, intervals and paired tests against values computed by hand."""

import json
import sys
import time
from math import comb, erfc, sqrt

import numpy as np
import pytest

from delrec_lite.data.types import CandidateSets, Split
from delrec_lite.errors import DataError, MissingPackageError
from delrec_lite.evaluation import significance
from delrec_lite.evaluation.metrics import Ranks, per_user
from delrec_lite.evaluation.popularity import popularity
from delrec_lite.evaluation.protocol import candidate_ranks, catalogue_ranks, rank_all, rank_candidates
from delrec_lite.evaluation.setting import Setting
from delrec_lite.evaluation.significance import interval, mcnemar, paired_test
from delrec_lite.evaluation.table import read_ranks, rows_for, write_table
from tests.tiny import ITEMS, candidates, dataset


def test_metrics_of_known_ranks():
    ranks = np.array([1, 2, 6, 11])
    assert per_user(ranks, "HR@1").tolist() == [1, 0, 0, 0]
    assert per_user(ranks, "HR@5").tolist() == [1, 1, 0, 0]
    assert per_user(ranks, "HR@10").tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(per_user(ranks, "NDCG@10"), [1, 1 / np.log2(3), 1 / np.log2(7), 0], rtol=1e-6)
    assert per_user(ranks, "NDCG@5")[2] == 0
    np.testing.assert_allclose(per_user(ranks, "MRR"), [1, 1 / 2, 1 / 6, 1 / 11], rtol=1e-6)


def test_a_constant_scorer_is_no_better_than_chance():
    n = 400
    items = np.tile(np.arange(15), (n, 1))
    ranks = candidate_ranks(np.zeros((n, 15), np.float32), items, np.arange(n) % 15)
    assert set(ranks) == {8}
    assert per_user(ranks, "HR@1").mean() == 0


def test_the_history_is_excluded_but_not_the_target():
    scores = np.array([[5, 4, 3, 2, 1]], np.float32)
    assert catalogue_ranks(scores, [np.array([0, 1])], np.array([3])).tolist() == [2]
    assert catalogue_ranks(scores, [np.array([], int)], np.array([3])).tolist() == [4]
    assert catalogue_ranks(scores, [np.array([0, 3])], np.array([3])).tolist() == [3]


def test_both_protocols_from_one_scoring():
    split = Split("test", (np.array([0]), np.array([1, 2])), np.array([2, 0]))
    sets = CandidateSets("test", np.array([[2, 3], [4, 0]]), 0)
    table = np.array([[9, 1, 5, 7, 0], [3, 9, 9, 4, 1]], np.float32)
    batch_sizes = []

    def scorer(histories):
        batch_sizes.append(len(histories))
        return table[: len(histories)] if len(batch_sizes) == 1 else table[1:]

    ranks = rank_all(scorer, split, sets, batch=2)
    assert batch_sizes == [2]
    assert ranks.sampled.tolist() == [2, 1]
    assert ranks.full.tolist() == [2, 2]


def test_candidates_alone_rank_as_they_do_from_the_whole_catalogue():
    test, sets = dataset().test(), candidates()
    table = np.random.default_rng(5).random((len(test), ITEMS)).astype(np.float32)
    row_of = {tuple(history): n for n, history in enumerate(test.histories)}

    def score_catalogue(histories):
        return table[[row_of[tuple(h)] for h in histories]]

    def score_sets(histories, items):
        assert items.shape == (len(histories), sets.items.shape[1])
        return np.take_along_axis(score_catalogue(histories), items, 1)

    ranks = rank_candidates(score_sets, test, sets, batch=7)
    assert ranks.tolist() == rank_all(score_catalogue, test, sets, batch=5).sampled.tolist()
    assert len(set(ranks)) > 2


def test_candidates_of_another_split_or_of_other_users_are_refused():
    scorer = popularity(dataset())
    with pytest.raises(DataError, match="'valid'"):
        rank_all(scorer, dataset().test(), candidates("valid"))
    with pytest.raises(DataError, match="for 2 users"):
        rank_all(scorer, dataset().test().take([0, 1]), candidates())
    with pytest.raises(DataError, match="no users"):
        rank_all(scorer, Split("test", (), np.array([], int)), CandidateSets("test", np.empty((0, 5), int), 0))


def test_nan_scores_and_sets_without_target_are_refused():
    with pytest.raises(DataError, match="not a number"):
        candidate_ranks(np.array([[np.nan, 1]], np.float32), np.array([[0, 1]]), np.array([0]))
    with pytest.raises(DataError, match="target"):
        candidate_ranks(np.zeros((1, 2), np.float32), np.array([[0, 1]]), np.array([5]))


def test_mcnemar_against_the_binomial():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(1, 9) == mcnemar(9, 1)
    for wins in range(25):
        for losses in range(25):
            n = wins + losses
            exact = min(1.0, 2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)
            assert mcnemar(wins, losses) == pytest.approx(exact, rel=1e-12)


def test_mcnemar_over_many_users_is_exact_and_takes_no_minutes():
    start = time.process_time()
    p = mcnemar(10_100, 9_900)
    assert time.process_time() - start < 60  # a sum over all outcomes took 330 s
    corrected = erfc((200 - 1) / sqrt(20_000) / sqrt(2))  # the normal distribution, close by for so many
    assert p == pytest.approx(corrected, rel=1e-4)


def test_without_scipy_the_exact_test_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingPackageError) as caught:
        mcnemar(3, 1)
    assert caught.value.hint == 'pip install "delrec-lite[train]"'
    assert mcnemar(0, 0) == 1


def test_paired_tests_find_a_difference_only_where_there_is_one():
    rng = np.random.default_rng(0)
    base = rng.random(500).astype(np.float32)
    better = paired_test(base + 0.1, base)
    assert better.p < 0.001
    assert better.difference == pytest.approx(0.1, abs=1e-5)
    noise = paired_test(rng.random(500).astype(np.float32), rng.random(500).astype(np.float32))
    assert noise.p > 0.01
    assert noise.low < 0 < noise.high
    assert paired_test(np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 0, 1])).method == "mcnemar-exact"


def test_the_interval_covers_the_mean_and_narrows():
    values = (np.random.default_rng(1).random(2000) < 0.4).astype(np.float32)
    low, high = interval(values)
    assert low < values.mean() < high
    assert 0.03 < high - low < 0.06
    few = interval(values[:50])
    assert few[1] - few[0] > 2 * (high - low)
    assert interval(values, seed=3, n=250) == interval(values, seed=3, n=250) != interval(values, seed=4, n=250)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(8)
    intervals = [interval((rng.random(300) < 0.3).astype(np.float32), n=300) for _ in range(200)]
    assert 0.9 <= np.mean([low <= 0.3 <= high for low, high in intervals]) <= 0.99


def test_a_paired_test_of_other_users_is_refused():
    with pytest.raises(DataError, match="3 users against 2"):
        paired_test(np.ones(3), np.ones(2))


def test_the_table_is_a_list_of_rows_and_keeps_the_raw_ranks(tmp_path):
    rng = np.random.default_rng(2)
    entries = {name: Ranks(rng.integers(1, 16, 60), rng.integers(1, 300, 60), 1.5) for name in ("A", "B")}
    write_table(tmp_path, entries, [("A", "B")], Setting(5, by_time=True))
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(r["model"], r["protocol"]) for r in rows] == [
        ("A", "sampled"),
        ("A", "full"),
        ("B", "sampled"),
        ("B", "full"),
    ]
    assert rows[0].keys() == {"model", "protocol", "users", "metrics", "intervals", "seconds", "precision"}
    assert rows[0]["metrics"]["HR@1"] == pytest.approx((entries["A"].sampled == 1).mean(), abs=1e-4)
    low, high = rows[0]["intervals"]["HR@10"]
    assert low <= rows[0]["metrics"]["HR@10"] <= high
    assert json.loads((tmp_path / "ranks.json").read_text())["B"]["full"] == entries["B"].full.tolist()
    table = (tmp_path / "table.md").read_text()
    assert "**5 candidates (1 positive, 4 unseen negatives)**, 60 test interactions" in table
    assert "| HR@1, 5 candidates (1 positive, 4 unseen negatives) |" in table
    text = table.splitlines()
    lines = [line for line in text if line.startswith("|")]
    assert len({len(line) for line in lines[:4]}) == 1
    assert rows_for("A", entries["A"])[0].users == 60
    assert not list(tmp_path.glob("*.part"))


def test_ranks_are_read_back_and_invalid_files_are_refused(tmp_path):
    ranks = Ranks(np.array([1, 4]), np.array([7, 900]), 0.25)
    write_table(tmp_path / "new", {"B": ranks, "A": ranks}, [], Setting(5))
    read = read_ranks(tmp_path / "new")
    assert list(read) == ["B", "A"]
    assert (read["A"].sampled.tolist(), read["A"].full.tolist(), read["A"].seconds) == ([1, 4], [7, 900], 0.25)
    with pytest.raises(DataError, match="no ranks"):
        read_ranks(tmp_path)
    for text in ("{", "[]", '{"A": {"sampled": [1]}}', '{"A": 3}'):
        (tmp_path / "ranks.json").write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            read_ranks(tmp_path)


def test_popularity_ranks_by_training_counts_alone():
    data = dataset()
    scores = popularity(data)(data.test().histories[:2])
    counts = np.zeros(ITEMS)
    for sequence in data.sequences:
        for item in sequence[:-2]:
            counts[item] += 1
    np.testing.assert_array_equal(scores, [counts, counts])
    ranks = rank_all(popularity(data), data.test(), candidates())
    assert len(ranks.sampled) == len(data.sequences)


def test_with_very_many_users_normal_intervals_and_tests_are_those_of_resampling(monkeypatch):
    rng = np.random.default_rng(3)
    first, second = rng.random(3000).astype(np.float32), rng.random(3000).astype(np.float32)
    resampled, tested = interval(first), paired_test(first, second)
    monkeypatch.setattr(significance, "MANY_USERS", 1000)
    assert interval(first) == pytest.approx(resampled, abs=1e-3)
    normal = paired_test(first, second)
    assert normal.method == "paired normal"
    assert normal.p == pytest.approx(tested.p, abs=0.02)
    assert paired_test(first, first).p == 1
