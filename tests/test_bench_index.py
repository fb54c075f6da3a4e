"""The bench of item indexes: catalogues that grow like real ones, and answers with and without an index."""

import numpy as np
import pytest

from delrec_lite.bench.ann_index import answer_both, divided, with_index
from delrec_lite.bench.ann_peers import measure_own, timed
from delrec_lite.bench.grown import grown_bundle, grown_rows, real_rows
from delrec_lite.evaluation.best import best
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS
from delrec_lite.runtime.recommender import Recommender
from tests.indexed import HISTORIES, clustered


def test_nobody_who_builds_an_index_is_asked():
    few = [[user, 100 + user, 200 + user] for user in range(8)]
    built_with, asked = divided(few)
    assert {history[0] for history in asked} == {0, 4}
    assert {history[0] for history in built_with} == {1, 2, 3, 5, 6, 7}
    assert sorted(map(len, asked)) == [1, 1, 2, 2, 3, 3]
    many = [[user, 1] for user in range(2000)]
    built_with, asked = divided(many)
    assert (len(built_with), len(asked)) == (640, 100)
    assert {len(history) for history in [*built_with, *asked]} == {2}


def test_new_rows_are_near_real_ones_and_differ_as_these_do():
    real = clustered(500)[0]
    rows = np.concatenate(list(grown_rows(real, 40_000)))
    np.testing.assert_array_equal(rows[:500], real)
    assert len(np.unique(rows @ np.random.default_rng(1).standard_normal(rows.shape[1]))) > 39_900
    first, second = (np.linalg.eigvalsh(np.cov(part.T))[::-1] for part in (real, rows))
    np.testing.assert_allclose(first[:8] / first.sum(), second[:8] / second.sum(), rtol=0.1)


def test_answers_with_and_without_an_index_are_timed_and_compared(shared_tiny_bundle, tmp_path):
    grown = grown_bundle(Bundle.open(shared_tiny_bundle), 400, tmp_path / "grown.delrec")
    assert len(grown.items.ids) == len(set(grown.items.titles)) == real_rows(grown).shape[0] == 400
    histories = [[item % 30 for item in history] for history in HISTORIES]
    assert with_index(grown, histories[20:]) > 0
    opened = Bundle.open(grown.folder)
    assert INDEX in opened.manifest["files"]
    assert opened.manifest["model"][INDEX_FACTS]["recall"] >= 0.995
    report = answer_both(str(grown.folder), histories[:3], 1)
    assert report["recall_at_10"] == 1
    assert report["largest_difference"] < 0.02
    assert min(report["scoring_ms"]["index"].values()) >= 0
    assert len(report["samples_ms"]["exact"]) == 15
    with Recommender.load(grown.folder, threads=1) as recommender:
        assert recommender.recommend([grown.items.titles[399]]).items


def test_an_index_is_measured_as_libraries_are():
    rows, states = clustered(5000)
    top = np.stack([best(rows @ state, 10) for state in states[300:]])
    every = timed(lambda state: best(rows @ state, 10), states[300:], top)
    own = measure_own(rows, states[:300], states[300:], top)
    assert every["recall"] == 1
    assert own["recall"] >= 0.97
    assert own["bytes"] == 5000 * own["rank"] * 4
    assert own["ms"] > 0


@pytest.mark.parametrize("name", ["usearch", "hnswlib", "faiss"])
def test_a_library_finds_the_best(name, tmp_path):
    from delrec_lite.bench.ann_peers import PEERS, measure_peer

    pytest.importorskip(name, reason=f"{name} is no part of this project: pip install it to compare")
    rows, states = clustered(5000)
    top = np.stack([best(rows @ state, 10) for state in states[300:320]])
    (peer,) = [peer for peer in PEERS.values() if peer.module == name]
    measured = measure_peer(peer, rows, states[300:320], top, 1, tmp_path)
    assert measured["recall"] >= 0.99
    assert measured["bytes"] > 0
    assert list(tmp_path.iterdir()) == []
