"""The item index: its answers are those of exact scores, whatever is left out, added, broken or missing."""

import json
import logging
from importlib import util

import numpy as np
import pytest

from delrec_lite.errors import BundleError
from delrec_lite.files import sha256_of
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.coarse import refined
from delrec_lite.runtime.engines.states import Refinement, coarse_engine
from delrec_lite.runtime.gguf import trunk
from delrec_lite.runtime.item_index.fit import RECALL, choose, fit_maps
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS, INDEX_MAPS, MANIFEST
from delrec_lite.runtime.recommender import Recommender
from tests.command import run
from tests.indexed import CHOICE, HISTORIES, ITEMS, NAMES, clustered, indexed_bundle

REQUESTS = [
    {},
    {"k": 1},
    {"k": ITEMS},
    {"exclude": NAMES[100:400]},
    {"exclude_history": False},
    {"where": "number < 50"},
    {"where": "number < 5"},  # fewer than are wanted
    {"where": "number > 599"},  # none
    {"candidates": NAMES[20:60]},
    {"candidates": [NAMES[3], "A Wholly New Title", NAMES[19]], "allow_new": True},
    {"popularity_discount": 0.7},
    {"diversity": 0.4},
    {"diversity": 0.4, "popularity_discount": 0.2, "where": "number > 200", "k": 20},
    {"session": "u"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return indexed_bundle(tmp_path_factory.mktemp("indexed"))[0]


@pytest.fixture(scope="module")
def both(folder):
    """The same bundle with its index and without."""
    with Recommender.load(folder, threads=1) as indexed, Recommender.load(folder, threads=1, exact=True) as exact:
        assert (coarse_engine(indexed.engine) is not None, coarse_engine(exact.engine)) == (True, None)
        yield indexed, exact


def same(first, second):
    """Whether two answers have the same items and the same scores, up to the order of sums."""
    assert [item.id for item in first] == [item.id for item in second]
    assert [item.score for item in first] == pytest.approx([item.score for item in second], abs=1e-4)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: ",".join(request) or "plain")
def test_answers_are_those_of_exact_scores(both, request_):
    for history in HISTORIES[:20]:
        titles = [NAMES[item] for item in history]
        indexed, exact = (recommender.recommend(titles, **request_) for recommender in both)
        same(indexed.items, exact.items)
        assert indexed.skipped == exact.skipped
        assert (indexed.tokens_computed, indexed.tokens_avoided) == (exact.tokens_computed, exact.tokens_avoided)


def test_probabilities_are_those_of_exact_scores_up_to_what_the_index_leaves_out(both):
    for history in HISTORIES[:10]:
        indexed, exact = (r.recommend([NAMES[item] for item in history]).items for r in both)
        assert [i.probability for i in indexed] == pytest.approx([i.probability for i in exact], rel=0.05)


def test_many_at_once_get_what_each_gets_alone(both):
    histories = [[NAMES[item] for item in history] for history in HISTORIES[:12]] + [[]]
    options = {"where": "number > 30", "exclude": [[NAMES[500]]] * len(histories)}
    for first, second in zip(*(recommender.recommend_batch(histories, **options) for recommender in both), strict=True):
        same(first, second)
    prepared = [[r.prepare(titles, session="s" if n % 2 else None) for n, titles in enumerate(histories)] for r in both]
    answers = [
        [r.finish(p, e) for p, e in zip(requests, r.evaluate(requests), strict=True)]
        for r, requests in zip(both, prepared, strict=True)
    ]
    for first, second in zip(*answers, strict=True):
        same(first.items, second.items)


def test_scores_of_the_whole_catalogue_stay_exact(both):
    indexed, exact = (recommender.scores(HISTORIES[:5]) for recommender in both)
    np.testing.assert_allclose(indexed, exact, atol=1e-4)
    indexed, exact = (recommender.score_candidates([[1, 2], [3]], [[5, 6], [7, 8]]) for recommender in both)
    np.testing.assert_allclose(indexed, exact, atol=1e-4)


def test_what_is_not_available_is_never_recommended(folder):
    with Recommender.load(folder, threads=1) as recommender:
        first = [item.id for item in recommender.recommend(NAMES[:2], k=5).items]
        assert not {item for item in first if item.endswith("9")}
        recommender.availability.change(unavailable=first, available=[])
        second = [item.id for item in recommender.recommend(NAMES[:2], k=5).items]
    assert len(second) == 5
    assert not set(first) & set(second)


def test_candidates_are_chosen_behind_the_filter_and_scored_exactly():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], np.float32)
    exact = np.array([0, 0, 0, 1, 9, 2, 3, 0, 0, 0], np.float32)
    refinement = Refinement(3, lambda items: exact[items] - scores[items])
    included = np.arange(10) > 2
    values, items = refined(scores, included, 0, refinement)
    assert items.tolist() == [4, 5, 3]
    assert values[[4, 5, 3]].tolist() == [9, 2, 1]
    assert np.isneginf(values[:3]).all()
    assert scores.tolist() == list(range(9, -1, -1))  # they are the engine's
    assert refined(scores, included, 1, refinement)[1].tolist()[:2] == [4, 6]  # ten for each that is wanted
    assert refined(scores, included & ~included, 1, refinement)[1].tolist() == []


def test_the_index_finds_the_best_of_a_catalogue_with_less_than_all_numbers():
    rows, states = clustered(20_000)
    maps = fit_maps(rows, states[:300])
    choice = choose(rows, maps, maps.shortened(rows), states[300:])
    assert choice is not None
    assert choice.rank <= 32
    assert RECALL <= choice.recall <= 1
    noise = np.random.default_rng(1).standard_normal((20_000, 64)).astype(np.float32)  # nothing can be left out here
    maps = fit_maps(noise, states[:300], 16)
    assert choose(noise, maps, maps.shortened(noise), noise[:64]) is None
    assert choose(noise, maps, np.full((20_000, 16), np.nan, np.float32), noise[:2]) is None


def test_added_items_are_in_the_index(folder, tmp_path):
    from delrec_lite.runtime.bundle import Bundle

    new = {"n1": "A Wholly New Title", "n2": "Title 3 of group 3, again"}
    more = add_items(folder, new, tmp_path / "more.delrec").folder
    most = add_items(more, {"n3": "The Last One"}, tmp_path / "most.delrec").folder
    assert len(np.load(most / INDEX)) == ITEMS + 3
    np.testing.assert_array_equal(np.load(most / INDEX)[:ITEMS], np.load(folder / INDEX))
    assert Bundle.open(most).manifest["model"] == Bundle.open(folder).manifest["model"]
    with Recommender.load(most, threads=1) as indexed, Recommender.load(most, threads=1, exact=True) as exact:
        for history in (["id:n1"], [NAMES[3], "id:n3", NAMES[4]]):
            for options in ({}, {"k": ITEMS + 3}, {"where": "number is missing", "exclude_history": False}):
                same(*(r.recommend(history, **options).items for r in (indexed, exact)))


def _forge(folder, model=None):
    """Give the manifest the digests of the files that are there."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in list(manifest["files"]):
        if (folder / name).is_file():
            manifest["files"][name] = {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
        else:
            del manifest["files"][name]
    manifest["model"] |= model or {}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _shape(folder):
    np.save(folder / INDEX, np.load(folder / INDEX)[1:])


def _type(folder):
    np.save(folder / INDEX, np.load(folder / INDEX).astype(np.float16))


def _nan(folder):
    rows = np.load(folder / INDEX)
    rows[5, 5] = np.nan
    np.save(folder / INDEX, rows)


def _maps(folder):
    np.save(folder / INDEX_MAPS, np.load(folder / INDEX_MAPS)[:, :-1])


def _cut(folder):
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:-64])


def _no_maps(folder):
    (folder / INDEX_MAPS).unlink()


@pytest.mark.parametrize("spoil", [_shape, _type, _nan, _maps, _cut, _no_maps])
def test_a_broken_index_is_refused_even_with_the_right_digest(tmp_path, spoil):
    folder, _ = indexed_bundle(tmp_path)
    spoil(folder)
    with pytest.raises(BundleError, match="sha256|bytes|missing"):
        Recommender.load(folder)
    _forge(folder)
    with pytest.raises(BundleError, match="item-index|item index"):
        Recommender.load(folder)
    with Recommender.load(folder, threads=1, exact=True) as recommender:
        assert len(recommender.recommend(NAMES[:2]).items) == 10


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"rank": "48", "candidates": 60, "recall": 1},
        {"rank": 48, "candidates": 0, "recall": 1},
        {"rank": 48, "candidates": 60, "recall": "all"},
        {"rank": 64, "candidates": 9, "recall": 1},
    ],
)
def test_facts_of_an_index_that_cannot_be_are_refused(tmp_path, facts):
    folder, _ = indexed_bundle(tmp_path)
    _forge(folder, {INDEX_FACTS: facts})
    with pytest.raises(BundleError, match="item_index|item-index|item index"):
        Recommender.load(folder)


def test_without_its_package_every_item_is_scored_with_one_warning(folder, both, monkeypatch, caplog):
    find_spec = util.find_spec
    monkeypatch.setattr(
        "delrec_lite.runtime.engines.indexed.find_spec", lambda name: None if name == "gguf" else find_spec(name)
    )
    with caplog.at_level(logging.WARNING), Recommender.load(folder, threads=1) as recommender:
        assert coarse_engine(recommender.engine) is None
        same(recommender.recommend(NAMES[:2]).items, both[1].recommend(NAMES[:2]).items)
    (record,) = caplog.records
    assert "item index" in record.message
    assert 'pip install "delrec-lite[gguf]"' in record.message


def test_without_files_in_memory_the_model_is_copied_to_a_temporary_file(folder, both, monkeypatch, tmp_path):
    monkeypatch.delattr(trunk.os, "memfd_create", raising=False)
    monkeypatch.setattr(trunk.tempfile, "tempdir", str(tmp_path))
    with Recommender.load(folder, threads=1) as recommender:
        same(recommender.recommend(NAMES[:2]).items, both[1].recommend(NAMES[:2]).items)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_take_exact(folder, tmp_path):
    history = ["--history", NAMES[1], "--history", NAMES[2]]
    answers = [json.loads(run("recommend", folder, *history, *more, "--json").stdout) for more in ([], ["--exact"])]
    assert ["score" in answer["milliseconds"] for answer in answers] == [True, False]
    assert [i["id"] for i in answers[0]["items"]] == [i["id"] for i in answers[1]["items"]]


def test_bulk_scores_are_those_of_the_recommender(folder, both):
    pa = pytest.importorskip("pyarrow")
    from delrec_lite.scoring.scorer import Scorer

    table = pa.table(
        {"user_id": ["a", "b", "c"], "history": [["i3", "i4"], ["i77"], []]},
    )
    for options in ({}, {"where": "number < 4"}, {"exclude": ["i5"], "candidates": [f"i{n}" for n in range(90)]}):
        found = []
        for exact in (False, True):
            scorer = Scorer(folder, 7, exact=exact, **options)
            found.append(scorer(table).to_pydict())
            scorer.close()
        assert found[0]["item_id"] == found[1]["item_id"]
        assert found[0]["score"] == pytest.approx(found[1]["score"], abs=1e-4)
    assert CHOICE.candidates < ITEMS
