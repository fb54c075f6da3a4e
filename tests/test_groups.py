"""Requests that are evaluated together get the answers that they get alone, sessions included, with every engine."""

import llama_cpp
import numpy as np
import pytest

from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import ENGINES, open_engine, register_engine
from delrec_lite.runtime.engines.groups import GroupEngine, evaluate_group
from delrec_lite.runtime.engines.llama_cpp import SESSIONS, LlamaEngine
from delrec_lite.runtime.engines.sessions import Sessions
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle
from tests.engines import DECAY, both_formats, scrambled

# A batch of another shape rounds otherwise; the scores of these models differ by about 1 from item to item.
ROUNDING = 0.03


@pytest.fixture(scope="module", autouse=True)
def decay():
    register_engine(DECAY)
    yield
    ENGINES.unregister(DECAY.name)


@pytest.fixture(scope="module")
def bundle(tiny_base, tmp_path_factory):
    return Bundle.open(both_formats(tiny_base, tmp_path_factory.mktemp("groups") / "tiny.delrec", scrambled(tiny_base)))


@pytest.fixture(params=[(name, threads) for name in (*ENGINES.names(), DECAY.name) for threads in (1, 2)])
def engine(request, bundle):
    engine = open_engine(bundle, request.param[0], threads=request.param[1])
    yield engine
    engine.close()


def alone(engine, requests):
    return np.concatenate([engine.scores([request]) for request in requests])


def test_the_built_in_engines_evaluate_groups(bundle):
    for name in ENGINES.names():
        engine = open_engine(bundle, name, threads=1)
        assert isinstance(engine, GroupEngine) == (name != DECAY.name)
        engine.close()


def test_a_group_scores_as_each_request_alone(engine):
    requests = [[n % 20, (3 * n) % 20, *range(n % 6)] for n in range(40)]
    sessions = [None if n % 3 == 0 else f"u{n}" for n in range(40)]
    expected = alone(engine, requests)
    for states in (False, True):
        group = evaluate_group(engine, requests, sessions, states)
        np.testing.assert_allclose(group.scores, expected, atol=ROUNDING)
        if states:
            np.testing.assert_allclose(group.states, engine.hidden_states(requests), atol=ROUNDING)


def test_sessions_of_a_group_cost_what_is_new(engine):
    first = [[3, 1], [4, 1, 5], [9, 2]]
    evaluate_group(engine, first, ["u", "v", "w"])
    more = [[3, 1, 6], [4, 1, 5, 7, 8], [7, 7], [9, 3, 2]]
    group = evaluate_group(engine, more, ["u", "v", None, "w"])
    assert group.tokens == [1, 2, 2, 2]
    np.testing.assert_allclose(group.scores, alone(engine, more), atol=ROUNDING)
    assert engine.score_session("v", [4, 1, 5, 7, 8, 2])[1] == 1


def test_one_session_twice_in_a_group_is_continued_in_order(engine):
    requests = [[3, 1], [3, 1, 4], [5], [3, 1, 4, 2]]
    group = evaluate_group(engine, requests, ["u", "u", None, "u"])
    assert group.tokens == [2, 1, 1, 1]
    np.testing.assert_allclose(group.scores, alone(engine, requests), atol=ROUNDING)


def test_a_group_with_an_invalid_request_is_refused_and_keeps_the_sessions(engine):
    engine.score_session("u", [3, 1])
    with pytest.raises(UsageError):
        evaluate_group(engine, [[3, 1, 4], [10_000]], ["u", None])
    assert engine.score_session("u", [3, 1, 4])[1] == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("groups"))


def test_more_sessions_than_are_kept_are_all_answered(tiny):
    engine = LlamaEngine(tiny.bundle, threads=1)
    for start in range(3):
        requests = [[(n + start) % 40, n % 7, 5] for n in range(3 * SESSIONS)]
        group = engine.evaluate_group(requests, [f"u{n}" for n in range(3 * SESSIONS)])
        np.testing.assert_allclose(group.scores, tiny.scores(requests), atol=2e-2)
    engine.close()


def test_a_group_is_evaluated_as_many_tokens_at_a_time_as_round_the_same(tiny, monkeypatch):
    real, sizes = llama_cpp.llama_decode, []

    def spy(context, batch):
        sizes.append(batch.n_tokens)
        return real(context, batch)

    engine = LlamaEngine(tiny.bundle, threads=1)
    requests = [[n, *range(2, 11)] for n in range(15)]
    alone = np.concatenate([engine.scores([request]) for request in requests])
    monkeypatch.setattr(llama_cpp, "llama_decode", spy)
    group = engine.evaluate_group(requests, [f"u{n}" if n < 7 else None for n in range(15)])
    assert sizes == [60, 60, 30]
    np.testing.assert_allclose(group.scores, alone, atol=1e-5)
    assert [int(scores.argmax()) for scores in group.scores] == [int(scores.argmax()) for scores in alone]
    engine.close()


def test_no_session_of_a_group_makes_room_for_another():
    """Four places of which three hold old sessions, two of them longer than what is asked now."""
    freed = []
    table = Sessions(4, freed.append, tokens=12)
    for name, length in (("a", 5), ("b", 5), ("c", 2)):
        table.take(name, length).entries = list(range(length))
    slots = {name: session.slot for name, session in table._cached.items()}
    taken = table.take_together([("b", [0, 1, 9]), ("d", [7] * 6), ("a", [0, 1, 2])])
    assert [reused for _, reused in taken] == [2, 0, 2]  # the last entry is evaluated again
    assert [session.slot for session, _ in taken][::2] == [slots["b"], slots["a"]]
    assert freed == [slots["c"]]
    assert table.count_new("d", [7] * 6 + [8]) == 1
    assert table.count_new("nobody", [1, 2]) == 2


def test_a_group_that_fails_drops_its_sessions(tiny, monkeypatch):
    engine = LlamaEngine(tiny.bundle, threads=1)
    engine.evaluate_group([[1, 2], [3]], ["u", "v"])
    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: 1)
    with pytest.raises(DelrecError, match="code 1"):
        engine.evaluate_group([[1, 2, 3], [5]], ["u", None])
    monkeypatch.undo()
    group = engine.evaluate_group([[1, 2, 3], [3, 4], [5]], ["u", "v", None])
    assert group.tokens == [3, 1, 1]
    np.testing.assert_allclose(group.scores, tiny.scores([[1, 2, 3], [3, 4], [5]]), atol=2e-2)
    engine.close()


def test_added_items_are_scored_in_a_group_too(tiny, tmp_path):
    add_items(tiny.bundle.folder, {"new": "Red River Again (2001)"}, tmp_path / "more.delrec")
    with Recommender.load(tmp_path / "more.delrec", threads=1) as recommender:
        histories = [TITLES[:2], [*TITLES[3:5], "id:new"], TITLES[7:8]]
        requests = [{"history": h, "k": 50, "session": s} for h, s in zip(histories, ("u", None, "v"), strict=True)]
        expected = [recommender.recommend(h, k=50) for h in histories]
        prepared = [recommender.prepare(**request) for request in requests]
        for request, evaluated, lone in zip(prepared, recommender.evaluate(prepared), expected, strict=True):
            answer = recommender.finish(request, evaluated)
            assert [item.title for item in answer.items] == [item.title for item in lone.items]
            assert (answer.tokens_computed, answer.tokens_avoided) == (lone.tokens_computed, lone.tokens_avoided)


def test_requests_of_all_kinds_are_evaluated_together(tiny):
    requests = [
        {"history": TITLES[:3]},
        {"history": []},
        {"history": TITLES[:3], "candidates": TITLES[5:9]},
        {"history": TITLES[:3], "candidates": [TITLES[5], "Something New"], "allow_new": True, "session": "u"},
        {"history": ["Something New", TITLES[4]], "allow_new": True},
        {"history": TITLES[:4], "session": "u"},
        {"history": TITLES[:2], "candidates": TITLES[5:6], "exclude": TITLES[5:6]},
    ]
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        prepared = [recommender.prepare(**request) for request in requests]
        results = recommender.evaluate(prepared)
        for request, ready, evaluated in zip(requests, prepared, results, strict=True):
            answer, lone = recommender.finish(ready, evaluated), recommender.recommend(**request)
            assert [item.title for item in answer.items] == [item.title for item in lone.items]
            np.testing.assert_allclose(
                [item.score for item in answer.items], [item.score for item in lone.items], atol=2e-2
            )
            assert (answer.basis, len(answer.matched)) == (lone.basis, len(lone.matched))
            assert set(answer.milliseconds) == {"match", "encode", "prefill", "sort"}
