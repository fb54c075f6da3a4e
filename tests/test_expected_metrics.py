"""Metrics among m candidates as the mean over all possible candidate sets."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from delrec_lite.data.candidates import sample_candidates
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import NAMES, Ranks, per_user
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.setting import Setting
from delrec_lite.evaluation.table import read_ranks, rows_for, write_table
from tests.tiny import dataset


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", [2, 4, 7])  # 2: fewer unseen items than are to be drawn
def test_expected_metrics_are_the_mean_over_every_candidate_set(name, pool):
    negatives, ranks = 4, np.arange(1, pool + 2)
    metrics = ExpectedSampledMetrics(np.full(len(ranks), pool), negatives).per_user(ranks, name)
    for rank, value in zip(ranks.tolist(), metrics, strict=True):
        # The unseen items in the order of their scores; the target stands before number rank - 1.
        places = [
            1 + sum(item < rank - 1 for item in chosen) for chosen in combinations(range(pool), min(pool, negatives))
        ]
        assert value == pytest.approx(per_user(np.array(places), name).mean(), abs=1e-6)


def test_sampled_metrics_vary_around_the_expected_ones():
    data, rng = dataset(), np.random.default_rng(0)
    scores = rng.normal(size=(len(data.user_ids), len(data.catalog))).astype(np.float32)
    sets = [sample_candidates(data, "test", 6, seed) for seed in range(300)]
    ranks = [rank_all(lambda _: scores, data.test(), candidate_sets, batch=len(scores)) for candidate_sets in sets]
    expected_metrics = ExpectedSampledMetrics.of(data.test(), len(data.catalog), 6)
    for name in ("HR@1", "NDCG@5", "MRR"):
        means = np.array([per_user(of_sets.sampled, name).mean() for of_sets in ranks])
        expected = expected_metrics.per_user(ranks[0].full, name).mean()
        assert abs(means.mean() - expected) < 4 * means.std() / len(means) ** 0.5
        assert means.std() > 0.01


def test_the_pool_is_the_unseen_items():
    data = dataset()
    unseen = [len(data.catalog) - len(set(s.tolist())) for s in data.sequences]
    expected_metrics = ExpectedSampledMetrics.of(data.test(), len(data.catalog), 5)
    assert (expected_metrics.pools.tolist(), expected_metrics.negatives) == (unseen, 4)
    seen_targets = replace(
        data.test(), targets=np.array([h[0] for h in data.test().histories])
    )  # the first item, which is in the history
    pools = [len(data.catalog) - len(set(s[:-1].tolist())) for s in data.sequences]
    assert ExpectedSampledMetrics.of(seen_targets, len(data.catalog), 5).pools.tolist() == pools


def test_the_table_has_expected_metrics_between_sampled_and_full(tmp_path):
    rng = np.random.default_rng(2)
    entries = {name: Ranks(rng.integers(1, 16, 60), rng.integers(1, 300, 60), 1.5) for name in ("A", "B")}
    entries["C"] = Ranks(entries["A"].sampled, np.empty(0, np.int64), 1.0)  # ranks candidates alone
    expected_metrics = ExpectedSampledMetrics(np.full(60, 400), 14)
    # Candidates by other scores than the catalogue: one does not follow from the other.
    entries["D"] = replace(entries["A"], same_scores=False)
    rows = write_table(tmp_path, entries, [("A", "B"), ("A", "C"), ("A", "D")], Setting(15), expected_metrics)
    row_names = [(row.model, row.protocol) for row in rows]
    assert row_names == [
        *((m, p) for m in ("A", "B") for p in ("sampled", "expected_sampled", "full")),
        *(("C", "sampled"), ("D", "sampled"), ("D", "full")),
    ]
    assert [ranks.same_scores for ranks in read_ranks(tmp_path).values()] == [True, True, True, False]
    hit_rate = expected_metrics.per_user(entries["A"].full, "HR@1").mean()
    assert rows[1].metrics["HR@1"] == pytest.approx(hit_rate, abs=1e-5)
    assert [row.protocol for row in rows_for("A", entries["A"])] == ["sampled", "full"]
    text = (tmp_path / "table.md").read_text()
    assert text.index("expected over all candidate sets**") < text.index("whole catalogue")
    assert text.count("A against C") == 1
    assert text.count("A against B") == 2
