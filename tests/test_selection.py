"""Filters, discount and diversity: what is ranked, in which order, alone, in batches and without a history."""

import json
import shutil

import numpy as np
import pytest

from delrec_lite.errors import UsageError
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.answer import rank
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.selection import discounted, diverse
from tests.bundles import COLUMNS, TITLES, tiny_bundle
from tests.command import run

REDS = [title for title in TITLES if title.startswith("Red")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("selection"), columns=COLUMNS)


@pytest.fixture(scope="module")
def recommender(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as loaded:
        yield loaded


def titles(items):
    return [item.title for item in getattr(items, "items", items)]


def test_without_options_the_answer_is_the_ranking_of_the_scores_bit_for_bit(recommender):
    history = TITLES[3:6]
    scores = recommender.scores([[3, 4, 5]])[0]
    left = [n for n in range(len(TITLES)) if n not in (3, 4, 5)]
    expected = rank(scores[left], lambda n: (f"i{left[n]}", TITLES[left[n]]), 10)
    plain = recommender.recommend(history)
    assert plain.items == expected
    off = recommender.recommend(history, where=None, diversity=0, popularity_discount=0.0)
    assert off.items == expected
    assert recommender.recommend_batch([history], diversity=0.0, exclude=[None])[0] == expected


def test_a_filter_leaves_the_order_of_the_rest(recommender):
    every = titles(recommender.recommend(TITLES[3:6], k=99))
    kept = recommender.recommend(TITLES[3:6], k=99, where='colour in ("Red", "Blue") and not new')
    assert titles(kept) == [title for title in every if title.startswith(("Red", "Blue"))]
    assert sum(item.probability for item in kept.items) == pytest.approx(1, abs=1e-5)
    assert titles(recommender.recommend(TITLES[3:6], where='colour = "Pink"')) == []
    among = recommender.recommend(TITLES[3:6], candidates=[TITLES[0], TITLES[30], TITLES[1]], where="price < 10")
    assert set(titles(among)) == set(TITLES[:2])


def test_a_new_candidate_has_no_values(recommender):
    request = {"history": TITLES[:2], "candidates": ["New Thing", TITLES[30]], "allow_new": True}
    assert titles(recommender.recommend(**request, where="price > 0")) == [TITLES[30]]
    assert set(titles(recommender.recommend(**request, where='not colour = "x"'))) == {"New Thing", TITLES[30]}
    assert titles(recommender.recommend(**request, where="colour is missing")) == ["New Thing"]


def test_without_a_history_the_most_popular_of_what_passes_come_first(recommender):
    answer = recommender.recommend([], k=3, where='tags has "Garden"', exclude=[TITLES[2]])
    assert (answer.basis, titles(answer)) == ("popularity", [TITLES[7], TITLES[12], TITLES[17]])
    recommender.availability.change(unavailable=["i7"])
    try:
        assert titles(recommender.recommend([], k=2, where='tags has "Garden"')) == [TITLES[2], TITLES[12]]
        assert titles(recommender.recommend([], candidates=[TITLES[7], TITLES[8]])) == [TITLES[8]]
    finally:
        recommender.availability.change(available=["i7"])


def test_the_discount_subtracts_a_share_of_the_log_of_popularity(recommender):
    popularity = np.array(recommender.bundle.items.popularity)
    scores = recommender.scores([[3]])[0]
    expected = scores - 0.5 * np.log1p(popularity)
    expected[3] = -np.inf
    answer = recommender.recommend([TITLES[3]], k=10, popularity_discount=0.5)
    assert titles(answer) == [TITLES[n] for n in np.argsort(-expected)[:10]]
    assert answer.items[0].score == pytest.approx(expected.max(), abs=1e-4)
    rarest = recommender.recommend([TITLES[3]], k=5, popularity_discount=1e6)
    assert titles(rarest) == TITLES[:-6:-1]
    np.testing.assert_array_equal(discounted(scores, np.zeros(40, np.float32), 3), scores)


def naive_mmr(scores, units, k, diversity):
    """The formula of the paper, item by item."""
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen = [int(np.argmax(scores))]
    while len(chosen) < min(k, len(scores)):
        rest = [n for n in range(len(scores)) if n not in chosen]
        value = [(1 - diversity) * relevance[n] - diversity * max(units[n] @ units[c] for c in chosen) for n in rest]
        chosen.append(rest[int(np.argmax(value))])
    return chosen


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity):
    rng = np.random.default_rng(int(diversity * 10))
    scores = -np.sort(-rng.standard_normal(30)).astype(np.float32)
    units = rng.standard_normal((30, 6)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert diverse(scores, units, 12, diversity).tolist() == naive_mmr(scores, units, 12, diversity)
    assert sorted(diverse(scores, units, 99, diversity).tolist()) == list(range(30))
    equal = np.zeros(30, np.float32)
    assert diverse(equal, units, 3, diversity)[0] == 0


def test_diversity_lowers_the_likeness_of_an_answer(recommender, tiny):
    rows = tiny.weights["token_embd.weight"][tiny.item_base :]
    units = rows - rows.mean(0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)

    def likeness(diversity):
        answer = recommender.recommend([TITLES[3]], k=8, diversity=diversity)
        chosen = [TITLES.index(title) for title in titles(answer)]
        products = units[chosen] @ units[chosen].T
        return (products.sum() - len(chosen)) / (len(chosen) * (len(chosen) - 1)), titles(answer)

    plain, half, most = (likeness(value) for value in (0.0, 0.5, 1.0))
    assert plain[0] > half[0] > most[0]
    assert plain[1][0] == half[1][0] == most[1][0]  # the best stays first
    answer = recommender.recommend([TITLES[3]], k=8, diversity=0.5)
    by_title = {item.title: item for item in recommender.recommend([TITLES[3]], k=40).items}
    assert [item.rank for item in answer.items] == list(range(1, 9))
    for item in answer.items:  # scores and probabilities stay what they are
        assert (item.score, item.probability) == (by_title[item.title].score, by_title[item.title].probability)


def test_diversity_of_candidates_new_and_added_items(recommender, tiny, tmp_path):
    request = {"history": TITLES[:2], "allow_new": True, "diversity": 0.7}
    answer = recommender.recommend(candidates=["A New Thing", *TITLES[3:9]], **request)
    assert set(titles(answer)) == {"A New Thing", *TITLES[3:9]}
    added = add_items(tiny.bundle.folder, {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec")
    with Recommender.load(added.folder, threads=1) as more:
        assert len(more.recommend(TITLES[:2], k=99, diversity=0.7).items) == len(TITLES) - 1
        vectors = more.engine.item_vectors([3, len(TITLES)])
        np.testing.assert_array_equal(vectors[1], np.load(added.folder / "additions.npy")[0, 0])
        np.testing.assert_array_equal(vectors[0], recommender.engine.item_vectors([3])[0])


def test_a_batch_answers_as_single_requests(recommender):
    histories = [[TITLES[3], TITLES[4]], [], [TITLES[9], "id:gone"]]
    for options in (
        {},
        {"where": "new", "diversity": 0.4, "popularity_discount": 0.3},
        {"exclude": [[TITLES[0]], None, ["id:i1", "id:no"]], "where": "price < 9"},
        {"candidates": [TITLES[5:12], None, [TITLES[0], "A New Thing"]], "allow_new": True, "diversity": 0.5},
        {"exclude": [TITLES[:20]] * 3, "exclude_history": False},
    ):
        together = recommender.recommend_batch(histories, k=5, **options)
        for n, (history, ranking) in enumerate(zip(histories, together, strict=True)):
            own = {name: v[n] if name in ("exclude", "candidates") else v for name, v in options.items()}
            alone = recommender.recommend(history, k=5, **own)
            assert titles(ranking) == titles(alone)
            assert (ranking.skipped, ranking.basis) == (alone.skipped, alone.basis)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"diversity": 1.1}, "diversity is 1.1"),
        ({"diversity": -0.1}, "diversity is -0.1"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"diversity": "much"}, "diversity is much"),
        ({"diversity": True}, "diversity is True"),
        ({"diversity": None}, "diversity is None"),
        ({"popularity_discount": -1}, "popularity_discount is -1"),
        ({"popularity_discount": float("inf")}, "popularity_discount is inf"),
        ({"where": "nothing = 5"}, "no column 'nothing'"),
        ({"where": 5}, "where is of type int"),
        ({"where": ""}, "the filter is empty"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_before_the_model_is_asked(recommender, monkeypatch, options, words):
    monkeypatch.setattr(recommender._engine, "scores", None)
    for ask in (recommender.recommend, lambda history, **more: recommender.recommend_batch([history], **more)):
        with pytest.raises(UsageError, match=words):
            ask(TITLES[:2], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": [[]]}, "exclude has 1 entries for 2 histories"),
        ({"candidates": [None] * 3}, "candidates has 3 entries"),
        ({"candidates": [[], None]}, "there are no candidates"),
        ({"exclude": ["Red", []]}, r"exclude\[0\] is one text"),
        ({"exclude": [["id:gone"], []], "on_unknown": "refuse"}, "no item has the id 'gone'"),
    ],
)
def test_a_batch_with_lists_that_do_not_fit_is_refused(recommender, options, words):
    with pytest.raises(UsageError, match=words):
        recommender.recommend_batch([TITLES[:2], TITLES[2:4]], **options)


def test_the_command_filters_and_diversifies(tiny, recommender):
    options = ["--where", 'colour = "Red"', "--diversity", 0.5, "--popularity-discount", 0.2, "--json", "--threads", 1]
    done = run("recommend", tiny.bundle.folder, "--history", TITLES[9], *options)
    expected = recommender.recommend([TITLES[9]], where='colour = "Red"', diversity=0.5, popularity_discount=0.2)
    assert [item["title"] for item in json.loads(done.stdout)["items"]] == titles(expected), done.stderr
    assert set(titles(expected)) == set(REDS)
    wrong = run("recommend", tiny.bundle.folder, "--history", TITLES[9], "--where", "color = 1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean colour?" in wrong.stderr
    assert run("recommend", tiny.bundle.folder, "--diversity", 2).returncode == 2


def test_what_is_loaded_filters_and_diversifies_without_its_folder(tiny, tmp_path, recommender):
    folder = shutil.copytree(tiny.bundle.folder, tmp_path / "gone.delrec")
    options = {"where": "price > 3 and not tags is missing", "diversity": 0.6, "popularity_discount": 0.1}
    with Recommender.load(folder, threads=1) as loaded:
        loaded.preload()
        shutil.rmtree(folder)
        assert titles(loaded.recommend(TITLES[:2], **options)) == titles(recommender.recommend(TITLES[:2], **options))
