"""Whatever a request holds: order and duplicates of candidates, and what the catalogue lacks, change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delrec_lite.errors import UsageError
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle

KNOWN = st.sampled_from([*TITLES, *(f"id:i{n}" for n in range(len(TITLES))), *map(str.lower, TITLES)])
LACKING = ["id:gone", "id:", "", " ", "No Such Thing At All", "<|im_start|>", "\u202e", "\x00", "東京" * 40]
UNKNOWN = st.sampled_from(LACKING)
HISTORY = st.lists(KNOWN, max_size=14)
CANDIDATES = st.lists(KNOWN, min_size=1, max_size=9)
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    with Recommender.load(tiny_bundle(tmp_path_factory.mktemp("properties")).bundle.folder, threads=1) as loaded:
        yield loaded


def mixed(data, values, more):
    """``values`` in their order, with ``more`` somewhere between them."""
    result = list(values)
    for value in more:
        result.insert(data.draw(st.integers(0, len(result))), value)
    return result


def indices(recommender, values):
    return {recommender.find(value).item for value in values}


@EXAMPLES
@given(data=st.data(), history=HISTORY, candidates=CANDIDATES, unknown=st.lists(UNKNOWN, max_size=4))
def test_permuted_and_repeated_candidates_give_the_same_answer(recommender, data, history, candidates, unknown):
    answer = recommender.recommend(history, 99, candidates)
    assert len(answer.items) == len(indices(recommender, candidates))
    permuted = data.draw(st.permutations(candidates))
    repeated = mixed(data, permuted, data.draw(st.lists(st.sampled_from(candidates), max_size=4)))
    again = recommender.recommend(history, 99, mixed(data, repeated, unknown))
    assert again.items == answer.items
    assert sorted(skipped.given for skipped in again.skipped) == sorted(unknown)


@EXAMPLES
@given(data=st.data(), history=HISTORY, exclude=st.lists(KNOWN, max_size=5), unknown=st.lists(UNKNOWN, max_size=4))
def test_what_the_catalogue_lacks_changes_nothing(recommender, data, history, exclude, unknown):
    answer = recommender.recommend(history, 7, exclude=exclude)
    again = recommender.recommend(mixed(data, history, unknown), 7, exclude=mixed(data, exclude, unknown))
    assert (again.items, again.basis, again.matched) == (answer.items, answer.basis, answer.matched)
    assert len(again.skipped) == 2 * len(unknown)
    (together,) = recommender.recommend_batch([mixed(data, history, unknown)], 7)
    assert [item.title for item in together] == [item.title for item in recommender.recommend(history, 7).items]


@EXAMPLES
@given(history=HISTORY, exclude=st.lists(KNOWN, max_size=9), candidates=st.none() | CANDIDATES, k=st.integers(1, 60))
def test_an_answer_holds_what_may_be_recommended_and_nothing_else(recommender, history, exclude, candidates, k):
    answer = recommender.recommend(history, k, candidates, exclude=exclude)
    allowed = set(range(len(TITLES))) - indices(recommender, history) if candidates is None else None
    allowed = indices(recommender, candidates) if allowed is None else allowed
    allowed -= indices(recommender, exclude)
    ranked = [TITLES.index(item.title) for item in answer.items]
    assert len(ranked) == len(set(ranked)) == min(k, len(allowed))
    assert set(ranked) <= allowed
    assert [item.rank for item in answer.items] == list(range(1, len(ranked) + 1))
    scores = np.array([item.score for item in answer.items])
    assert (np.diff(scores) <= 0).all()
    assert answer.basis == ("model" if history else "popularity")
    if answer.items and k >= len(allowed):
        assert sum(item.probability for item in answer.items) == pytest.approx(1, abs=1e-4)


@EXAMPLES
@given(history=HISTORY, exclude=st.lists(KNOWN, max_size=5), k=st.integers(1, 12))
def test_excluding_items_moves_the_others_up_and_changes_no_score(recommender, history, exclude, k):
    whole = recommender.recommend(history, 99)
    answer = recommender.recommend(history, k, exclude=exclude)
    gone = {TITLES[item] for item in indices(recommender, exclude)}
    expected = [item for item in whole.items if item.title not in gone][:k]
    assert [(item.title, item.score) for item in answer.items] == [(item.title, item.score) for item in expected]


@EXAMPLES
@given(history=st.lists(KNOWN | UNKNOWN, max_size=6), unknown=UNKNOWN)
def test_refusing_refuses_exactly_what_would_be_skipped(recommender, history, unknown):
    skipped = recommender.recommend(history, 3).skipped
    if skipped:
        with pytest.raises(UsageError):
            recommender.recommend(history, 3, on_unknown="refuse")
    else:
        assert recommender.recommend(history, 3, on_unknown="refuse").items == recommender.recommend(history, 3).items
    with pytest.raises(UsageError):
        recommender.recommend([*history, unknown], on_unknown="refuse")
