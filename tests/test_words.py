"""Words beside a history: without them nothing changes, with them the items whose texts fit come first."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.data.types import Catalog
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.export.words import WEIGHTS, best_weight
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.words.reading import WEIGHT, WEIGHT_ALONE
from delrec_lite.runtime.words.table import FILE, WordTable
from delrec_lite.runtime.words.text import asked_in, words_in
from tests.bundles import tiny_bundle as without_words


@pytest.fixture
def recommender(tiny_bundle):
    with Recommender.load(tiny_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def history(recommender):
    return recommender.bundle.items.titles[3:6]


def titles(answer):
    return [item.title for item in answer.items]


@pytest.mark.parametrize(
    ("text", "used", "avoided"),
    [
        ("a space adventure, not for children", ["space", "adventure"], ["children"]),
        ("Without horror or gore but funny", ["funny"], ["horror", "gore"]),
        ("I don't want westerns", [], ["westerns"]),
        ("Sci-Fi|Children's; no Drama", ["sci", "fi", "children"], ["drama"]),
        ("caf\u00e9 \u6771\u4eac", ["cafe", "\u6771", "\u4eac"], []),
        ("not", [], []),
        ("war, not war", [], ["war"]),
    ],
)
def test_a_not_reaches_to_the_end_of_its_clause(text, used, avoided):
    asked = asked_in(text)
    assert [a.word for a in asked if not a.negated] == used
    assert [a.word for a in asked if a.negated] == avoided


def test_an_item_is_as_near_as_its_nearest_word():
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    table = WordTable.of(["red", "blue", "crimson"], vectors, ["Red", "Blue, red", "", "Blue"])
    assert table.similarity([0])[0] == pytest.approx([1, 1, 0, 0], abs=0.01)
    assert table.similarity([2])[0] == pytest.approx([0.8, 0.8, 0, 0.6], abs=0.01)
    assert table.nearest(2, 3) == "blue"
    assert table.in_other_words("red") == "crimson"
    assert table.find("reds") == 0


@pytest.mark.parametrize("words", [None, "", "  "])
def test_without_words_nothing_changes(recommender, history, words):
    plain = recommender.recommend(history, 20)
    with_none = recommender.recommend(history, 20, words=words, words_weight=3)
    assert with_none.items == plain.items
    assert (with_none.words, with_none.basis) == (None, "model")
    assert recommender.recommend([], 20, words=words).items == recommender.recommend([], 20).items


def test_items_whose_texts_fit_come_first_and_negated_ones_last(recommender, history):
    count = len(recommender.bundle.items.titles)
    wanted = titles(recommender.recommend(history, count, words="golden", words_weight=50))
    assert all("Golden" in title for title in wanted[:4])
    unwanted = titles(recommender.recommend(history, count, words="not golden", words_weight=50))
    assert sum("Golden" in title for title in unwanted[-4:]) == 4
    assert titles(recommender.recommend(history, words="golden", words_weight=0)) == titles(
        recommender.recommend(history)
    )


def test_words_alone_rank_and_unknown_ones_are_named(recommender, history):
    answer = recommender.recommend([], 5, words="Golden qqqzzz", words_weight=50)
    assert answer.basis == "words"
    assert all("Golden" in title for title in titles(answer))
    assert (answer.words.used, answer.words.unknown) == (["golden"], ["qqqzzz"])
    unknown = recommender.recommend(history, words="qqqzzz")
    assert unknown.items == recommender.recommend(history).items
    assert recommender.recommend([], words="qqqzzz").basis == "popularity"


def test_candidates_new_items_and_batches_have_words_too(recommender, history):
    among = [*recommender.bundle.items.titles[:3], "Golden Comet"]
    answer = recommender.recommend(history, candidates=among, allow_new=True, words="golden", words_weight=100)
    assert titles(answer)[0] == "Golden Comet"
    rankings = recommender.recommend_batch([history, history, []], words=["golden", None, "golden"], words_weight=50)
    assert [r.basis for r in rankings] == ["model", "model", "words"]
    assert titles(recommender.recommend(history)) == [item.title for item in rankings[1]]
    assert "Golden" in rankings[0][0].title
    with pytest.raises(UsageError, match="2 entries for 1 histories"):
        recommender.recommend_batch([history], words=["a", "b"])


@pytest.mark.parametrize(("words", "weight"), [(3, None), (["golden"], None), ("golden", -1), ("golden", float("nan"))])
def test_bad_words_are_refused(recommender, history, words, weight):
    with pytest.raises(UsageError, match="words"):
        recommender.recommend(history, words=words, words_weight=weight)


def test_an_explanation_names_words_and_texts(recommender, history):
    about = explain(recommender, history, words="golden, not river").words
    assert [(c.word, c.negated) for c in about.contributions] == [("golden", False), ("river", True)]
    assert "Golden" in about.fitting[0]
    plain = recommender.recommend(history, 40, words="golden", words_weight=None).items[0]
    one = explain(recommender, history, plain.title, words="golden")
    before = explain(recommender, history, plain.title).probability
    assert one.words.contributions[0].weight == pytest.approx(np.log(one.probability / before), abs=1e-3)
    alone = explain(recommender, [], words="golden")
    assert alone.contributions == []
    assert alone.title == recommender.recommend([], 1, words="golden").items[0].title
    assert explain(recommender, history).words is None


def test_added_items_are_found_by_title_and_side_text(tiny_bundle):
    add_items(tiny_bundle, {"n1": "Silver Comet"}, texts={"n1": "Golden"})
    with Recommender.load(tiny_bundle, threads=1) as loaded:
        fit = loaded.words.read("golden").fit
    assert len(fit) == len(loaded.bundle.items.ids)
    assert fit[-1] == fit.max()


def test_words_that_came_with_added_items_find_them(tiny_bundle):
    add_items(tiny_bundle, {"n1": "Zyxwv Comet", "n2": "Silver Zyxwv"}, texts={"n1": "Qwerty"})
    with Recommender.load(tiny_bundle, threads=1) as loaded:
        for words, ids in (("zyxwv", {"n1", "n2"}), ("qwerty", {"n1"})):
            answer = loaded.recommend([], 2, words=words, words_weight=50)
            assert answer.words.unknown == []
            assert {item.id for item in answer.items} >= ids
        about = explain(loaded, [], "id:n1", words="qwerty").words
        assert (about.contributions[0].nearest, about.fitting[0]) == ("qwerty", "Zyxwv Comet")


def test_a_bundle_without_words_or_with_broken_ones_says_so(tiny_bundle, tmp_path):
    with Recommender.load(without_words(tmp_path).bundle.folder, threads=1) as old:
        old.preload()
        with pytest.raises(UsageError, match="exported before"):
            old.recommend([], words="golden")
    (tiny_bundle / FILE).write_bytes(b"PK")
    with pytest.raises(BundleError, match=FILE):
        WordTable.load(tiny_bundle / FILE, 30)
    np.savez_compressed(tiny_bundle / FILE, words=np.zeros(9, np.uint8))
    with pytest.raises(BundleError, match="compressed"):
        WordTable.load(tiny_bundle / FILE, 30)


def test_the_weight_is_the_one_that_makes_targets_likeliest(recommender):
    fit = np.eye(4, dtype=np.float32)
    assert best_weight(np.zeros((4, 4), np.float32), fit, np.arange(4)) == max(WEIGHTS)
    assert best_weight(np.zeros((4, 4), np.float32), fit, np.arange(4)[::-1]) == 0
    chosen = recommender.bundle.manifest["model"]
    assert {chosen[WEIGHT], chosen[WEIGHT_ALONE]} <= set(WEIGHTS)


def test_the_commands(tiny_bundle):
    runner, options = CliRunner(), [str(tiny_bundle), "--threads", "1", "--json", "--words", "golden, no river qqq"]
    done = runner.invoke(app, ["recommend", *options, "--words-weight", "20"])
    answer = json.loads(done.stdout)
    assert (answer["basis"], answer["words"]["avoided"]) == ("words", ["river"])
    assert "'qqq'" in done.stderr
    done = runner.invoke(app, ["explain", *options, "--history", "id:i3"])
    assert [c["word"] for c in json.loads(done.stdout)["words"]["contributions"]] == ["golden", "river"]


def test_the_server(tiny_bundle):
    from fastapi.testclient import TestClient

    from delrec_lite.server.api import make_api
    from delrec_lite.server.worker import Worker

    worker = Worker(Recommender.load(tiny_bundle, threads=1))
    with TestClient(make_api(worker)) as client:
        body = {"history": ["id:i3"], "words": "golden", "words_weight": 50}
        assert "Golden" in client.post("/v1/recommend", json=body).json()["items"][0]["title"]
        batch = {"histories": [["id:i3"], []], "words": ["golden", None]}
        assert [w and w["used"] for w in client.post("/v1/batch", json=batch).json()["words"]] == [["golden"], None]
        explained = client.post("/v1/explain", json={"history": ["id:i3"], "words": "golden"}).json()
        assert explained["words"]["contributions"][0]["word"] == "golden"
        assert client.post("/v1/recommend", json={**body, "words_weight": 101}).status_code == 422


def test_the_bench(tiny_bundle, tmp_path):
    from delrec_lite.bench import words as bench
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import candidates, dataset

    data = dataset()
    catalog = Catalog(data.catalog.ids, data.catalog.titles, tuple(words_in(t)[0] for t in data.catalog.titles))
    data = make_dataset("ring", catalog, data.user_ids, data.sequences)
    save_dataset(
        data, {s: candidates(s) for s in ("valid", "test")}, Settings(2, 5, 3, text_columns=("c",)), tmp_path / "d"
    )
    bench.main([str(tiny_bundle), "--dataset", str(tmp_path / "d"), "--out", str(tmp_path / "w.json")])
    report = json.loads((tmp_path / "w.json").read_text())
    assert report["users"] == len(data.user_ids)
    negated = report["negations"]["not golden"]
    assert negated["with not"] <= negated["without words"]
