"""Requests of real life: ids that the catalogue lacks, users without a history, sequences of any kind."""

import json

import numpy as np
import pyarrow as pa
import pytest

from delrec_lite.errors import UsageError
from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle

NUMBERS = [str(100 + n) for n in range(len(TITLES))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("requests"))


@pytest.fixture(scope="module")
def recommender(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as loaded:
        yield loaded


def changed(tiny, tmp_path, catalogue=None, **model):
    """A recommender over a copy with other catalogue columns or entries of the manifest's model."""
    folder = tmp_path / "changed.delrec"
    folder.mkdir()
    for path in tiny.bundle.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "catalog.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (catalogue or {})))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"] |= model
    manifest["files"]["catalog.json"]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Recommender.load(folder, threads=1, verify=False)


def titles(answer):
    return [item.title for item in answer.items]


def test_what_the_catalogue_lacks_is_skipped_and_named(recommender):
    known = recommender.recommend([TITLES[3], TITLES[4]], k=5, exclude=[TITLES[9]])
    answer = recommender.recommend(
        [TITLES[3], "id:gone", "No Such Thing", " ", TITLES[4]], k=5, exclude=["id:sold", TITLES[9], "Never Heard Of"]
    )
    assert answer.items == known.items
    assert [match.title for match in answer.matched] == [TITLES[3], TITLES[4]]
    assert [(s.given, s.where, s.reason) for s in answer.skipped] == [
        ("id:gone", "history", "no item has the id 'gone'"),
        ("No Such Thing", "history", "no item is called 'No Such Thing'"),
        (" ", "history", "a title is empty"),
        ("id:sold", "exclude", "no item has the id 'sold'"),
        ("Never Heard Of", "exclude", "no item is called 'Never Heard Of'"),
    ]
    among = recommender.recommend(TITLES[3:5], candidates=[TITLES[7], "id:gone", TITLES[8]])
    assert among.items == recommender.recommend(TITLES[3:5], candidates=TITLES[7:9]).items
    assert [(s.given, s.where) for s in among.skipped] == [("id:gone", "candidates")]


@pytest.mark.parametrize(
    "arguments",
    [
        {"history": ["id:gone"]},
        {"history": [], "exclude": ["id:gone"]},
        {"history": [], "candidates": [TITLES[0], "id:gone"]},
    ],
)
def test_what_the_catalogue_lacks_is_refused_where_asked(recommender, arguments):
    with pytest.raises(UsageError, match="no item has the id 'gone'"):
        recommender.recommend(**arguments, on_unknown="refuse")


def test_without_a_known_history_the_most_popular_come_first_and_are_marked(recommender):
    answer = recommender.recommend([], k=5, session="new user")
    assert (answer.basis, titles(answer), answer.skipped) == ("popularity", TITLES[:5], [])
    assert (answer.tokens_computed, answer.tokens_avoided) == (0, 0)
    popularity = np.array(recommender.bundle.items.popularity) + 1.0
    assert answer.items[0].probability == pytest.approx(popularity[0] / popularity.sum(), rel=1e-4)
    unknown = recommender.recommend(["id:gone", "No Such Thing"], k=5)
    assert (unknown.basis, unknown.items, len(unknown.skipped)) == ("popularity", answer.items, 2)
    among = recommender.recommend([], candidates=[TITLES[30], "New Thing", TITLES[2]], allow_new=True)
    assert titles(among) == [TITLES[2], TITLES[30], "New Thing"]
    assert titles(recommender.recommend([], k=2, exclude=[TITLES[0]])) == TITLES[1:3]
    assert recommender.recommend([TITLES[0]], k=5).basis == "model"
    assert recommender.recommend(["A New Thing"], k=5, allow_new=True).basis == "model"
    assert recommender.tokens([]) == 0


def test_a_batch_skips_and_marks_each_history(recommender):
    histories = [[TITLES[3], "id:gone"], [], ["id:gone"], TITLES]
    rankings = recommender.recommend_batch(histories, k=4)
    assert [ranking.basis for ranking in rankings] == ["model", "popularity", "popularity", "model"]
    assert [[s.given for s in ranking.skipped] for ranking in rankings] == [["id:gone"], [], ["id:gone"], []]
    alone = [recommender.recommend(history, k=4).items for history in histories]
    assert [[item.title for item in ranking] for ranking in rankings] == [[i.title for i in items] for items in alone]
    assert rankings[3] == []
    with_history = recommender.recommend_batch([TITLES], k=99, exclude_history=False)
    assert len(with_history[0]) == len(TITLES)


def test_exclusions_win(recommender):
    history = TITLES[:2]
    candidates = [TITLES[0], TITLES[7], TITLES[8]]
    assert set(titles(recommender.recommend(history, candidates=candidates))) == set(candidates)
    without = recommender.recommend(history, candidates=candidates, exclude=["id:i7"])
    assert set(titles(without)) == {TITLES[0], TITLES[8]}
    assert set(titles(recommender.recommend(history, candidates=candidates, exclude_history=True))) == set(TITLES[7:9])
    assert recommender.recommend(history, candidates=candidates, exclude=candidates).items == []
    new = recommender.recommend(history, candidates=["New Thing", TITLES[7]], exclude=["new thing!"], allow_new=True)
    assert titles(new) == [TITLES[7]]
    assert TITLES[1] not in titles(recommender.recommend(history, 99, exclude=[TITLES[1]], exclude_history=False))


def test_the_data_set_says_whether_the_history_is_ranked(tiny, tmp_path, recommender):
    history = TITLES[:3]
    with changed(tiny, tmp_path, repeats=True) as repeating:
        assert set(history) <= set(titles(repeating.recommend(history, k=99)))
        assert not set(history) & set(titles(repeating.recommend(history, k=99, exclude_history=True)))
        assert len(repeating.recommend_batch([history], k=99)[0]) == len(TITLES)
        scores = repeating.scores([[0, 1, 2]])[0]
        explanation = explain(repeating, history)
        assert (explanation.title, explanation.rank) == (TITLES[int(scores.argmax())], 1)
        assert explain(repeating, history, TITLES[0]).rank == 1 + (scores > scores[0]).sum()
    assert not set(history) & set(titles(recommender.recommend(history, k=99)))
    assert set(history) <= set(titles(recommender.recommend(history, k=99, exclude_history=False)))


def test_an_explanation_skips_and_names_what_the_catalogue_lacks(recommender):
    explanation = explain(recommender, [TITLES[3], "id:gone", TITLES[4]])
    assert [c.title for c in explanation.contributions] == TITLES[3:5]
    assert [s.given for s in explanation.skipped] == ["id:gone"]
    with pytest.raises(UsageError, match="no item has the id"):
        explain(recommender, [TITLES[3], "id:gone"], on_unknown="refuse")
    with pytest.raises(UsageError, match="nothing of the history"):
        explain(recommender, ["id:gone"])


class Series:
    """As pandas and Polars have them: iterable, with no truth value of its own."""

    ndim = 1

    def __init__(self, values):
        self._values = values

    def __iter__(self):
        return iter(self._values)

    def __bool__(self):
        raise ValueError("the truth value of a Series is ambiguous")


@pytest.mark.parametrize(
    "form",
    [tuple, np.array, iter, Series, dict.fromkeys, pa.array, lambda v: (x for x in v), lambda v: np.array(v, object)],
    ids=["tuple", "array", "iterator", "Series", "keys", "Arrow", "generator", "objects"],
)
def test_a_sequence_of_any_kind_is_a_list(recommender, form):
    form = (lambda values: dict.fromkeys(values).keys()) if form == dict.fromkeys else form
    history, candidates, excluded = TITLES[:3], TITLES[5:12], TITLES[5:6]
    expected = recommender.recommend(history, 5, candidates, exclude=excluded)
    answer = recommender.recommend(form(history), np.int64(5), form(candidates), exclude=form(excluded))
    assert answer.items == expected.items
    together = recommender.recommend_batch(form([history]) if form is iter else [form(history)], np.int32(5))
    assert [item.title for item in together[0]] == titles(recommender.recommend(history, 5))
    assert explain(recommender, form(history)).title == explain(recommender, history).title


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("Red River (1950)", "history is one text and no list: 'Red River"),
        (b"Red River", "history is one text"),
        (None, "history is None"),
        ({"Red River": 1}, "history is of type dict"),
        ({"Red River", "Blue River"}, "of type set, which has no order"),
        (5, "history is of type int and no list"),
        (np.array("Red River"), "history is of type ndarray"),
        (np.array([["Red River"]]), "history is of type ndarray"),
        ([TITLES[0], None], r"history\[1\] is neither a title nor an id: None"),
        ([float("nan")], r"history\[0\] is neither"),
        ([3.0], r"history\[0\] is neither"),
        ([True], r"history\[0\] is neither"),
        ([[TITLES[0]]], r"history\[0\] is neither"),
        (["\udcff"], r"history\[0\] is no valid text"),
        ([3], "holds the number 3, and no id of this catalogue is a number"),
    ],
)
def test_what_is_no_list_of_titles_is_refused_in_one_line(recommender, history, words):
    for call in (recommender.recommend, lambda h: explain(recommender, h)):
        with pytest.raises(UsageError, match=words) as raised:
            call(history)
        assert raised.value.hint
    with pytest.raises(UsageError, match=words.replace("history", r"histories\[0\]", 1)):
        recommender.recommend_batch([history])


def test_a_batch_of_titles_is_no_batch_of_histories(recommender):
    with pytest.raises(UsageError, match=r"histories\[0\] is one text"):
        recommender.recommend_batch(TITLES[:3])
    with pytest.raises(UsageError, match="histories is one text"):
        recommender.recommend_batch(TITLES[0])
    with pytest.raises(UsageError, match="candidates is one text"):
        recommender.recommend(TITLES[:1], candidates=TITLES[1])
    with pytest.raises(UsageError, match="exclude is one text"):
        recommender.recommend(TITLES[:1], exclude=TITLES[1])
    assert recommender.recommend(TITLES[:1], k=1, exclude=None).items


def test_sets_are_candidates_and_exclusions(recommender):
    answer = recommender.recommend(TITLES[:1], candidates=set(TITLES[4:9]), exclude=frozenset(TITLES[4:6]))
    assert set(titles(answer)) == set(TITLES[6:9])


@pytest.mark.parametrize("k", [0, -1, None, 2.5, "3", True, np.float64(2)])
def test_a_k_that_is_no_number_is_refused(recommender, k):
    with pytest.raises(UsageError, match="k is"):
        recommender.recommend(TITLES[:1], k)


def test_numbers_are_ids_where_the_ids_are_numbers(tiny, tmp_path):
    with changed(tiny, tmp_path, {"ids": NUMBERS}) as recommender:
        expected = recommender.recommend(TITLES[:3], 5, exclude=[TITLES[9]])
        for numbers in ([100, 101, 102], np.array([100, 101, 102]), ["id:100", 101, TITLES[2]]):
            answer = recommender.recommend(numbers, 5, exclude=[109])
            assert answer.items == expected.items
        assert [match.given for match in answer.matched] == ["id:100", "id:101", TITLES[2]]
        gone = recommender.recommend([100, 999], 5)
        assert [(s.given, s.reason) for s in gone.skipped] == [("id:999", "no item has the id '999'")]
        assert recommender.find(104).title == TITLES[4]


def test_a_number_that_is_a_title_too_is_refused(tiny, tmp_path):
    names = {"ids": NUMBERS, "titles": ["101", *TITLES[1:-1], "1984"]}
    with changed(tiny, tmp_path, names) as recommender:
        for number in (101, 1984):
            with pytest.raises(UsageError, match="also the title of another item"):
                recommender.recommend([number])
        assert titles(recommender.recommend(["id:101"], candidates=["101"])) == ["101"]


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        ([["Red River"]], r"no item has the index 'Red River': histories\[0\]\[0\]"),
        ([[len(TITLES)]], f"the index {len(TITLES)}:"),
        ([[-1]], "the index -1:"),
        (["Red River"], r"histories\[0\] is one text"),
        ([[1.5]], "the index 1.5:"),
    ],
)
def test_scores_take_indices_alone(recommender, histories, words):
    with pytest.raises(UsageError, match=words):
        recommender.scores(histories)
    with pytest.raises(UsageError, match="candidates"):
        recommender.score_candidates([[0]], [[0, len(TITLES)]])
    with pytest.raises(UsageError, match="do not fit"):
        recommender.score_candidates([[0], [1]], [[0, 1]])
    expected = recommender.scores([[0, 1]])
    np.testing.assert_array_equal(recommender.scores(np.array([[0, 1]])), expected)
    np.testing.assert_array_equal(recommender.score_candidates([(0, 1)], [[5, 3]]), expected[:, [5, 3]])
