"""Sessions: the same answers as without, for the price of what is new; bounded, and safe under threads."""

from concurrent.futures import ThreadPoolExecutor

import llama_cpp
import numpy as np
import pytest

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.engines.llama_cpp import SESSIONS, LlamaEngine
from delrec_lite.runtime.engines.sessions import Sessions, count_shared
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("sessions"))


@pytest.fixture
def engine(tiny):
    engine = LlamaEngine(tiny.bundle, threads=1)
    yield engine
    engine.close()


def test_so_many_sessions_are_kept_and_no_more(engine, tiny):
    for n in range(SESSIONS + 1):
        engine.score_session(f"u{n}", [n, n + 1])
    assert engine.score_session("u1", [1, 2, 30])[1] == 1
    scores, computed = engine.score_session("u0", [0, 1, 30])
    np.testing.assert_allclose(scores, tiny.scores([[0, 1, 30]])[0], atol=2e-2)
    assert computed == 3  # the first made room


def test_the_one_not_used_for_longest_makes_room():
    table = Sessions(2, lambda slot: None)
    a, b = table.take("a", 1), table.take("b", 1)
    table.take("a", 1)
    c = table.take("c", 1)
    assert (c.slot, len(table)) == (b.slot, 2)
    assert table.take("a", 1) is a
    table.drop("a")
    assert table.take("d", 1).slot == a.slot
    table.drop("nobody")


def test_sessions_that_hold_too_much_together_make_room():
    freed = []
    table = Sessions(9, freed.append, tokens=10)
    slots = {}
    for name in "ab":
        cached = table.take(name, 4)
        cached.entries, slots[name] = [0] * 4, cached.slot
    table.take("a", 5)
    assert freed == []
    table.take("c", 8)
    assert freed == [slots["b"], slots["a"]]
    assert len(table) == 1


def test_the_last_entry_is_always_evaluated():
    assert count_shared([1, 2, 3], [1, 2, 3]) == 2
    assert count_shared([1, 2, 3], [1, 2, 3, 4]) == 3
    assert count_shared([], [1]) == 0
    assert count_shared([1, 2], [2, 2]) == 0


def test_a_failed_step_leaves_nothing_to_go_on_from(engine, tiny, monkeypatch):
    engine.score_session("u", [1, 2])
    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: 1)
    with pytest.raises(DelrecError, match="code 1"):
        engine.score_session("u", [1, 2, 3])
    monkeypatch.undo()
    scores, computed = engine.score_session("u", [1, 2, 3])
    assert computed == 3
    np.testing.assert_allclose(scores, tiny.scores([[1, 2, 3]])[0], atol=2e-2)


def test_recommend_with_a_session_says_what_it_saved(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        history = TITLES[:4]
        plain = recommender.recommend(history, k=5)
        first = recommender.recommend(history[:3], k=5, session="me")
        second = recommender.recommend(history, k=5, session="me")
        prefix = len(tiny.prefix)
        assert (plain.tokens_computed, plain.tokens_avoided) == (4, prefix)
        assert (first.tokens_computed, first.tokens_avoided) == (3, prefix)
        assert (second.tokens_computed, second.tokens_avoided) == (1, prefix + 3)
        assert [r.title for r in second.items] == [r.title for r in plain.items]
        gone = plain.items[0].title
        assert gone not in [r.title for r in recommender.recommend(history, k=50, exclude=[gone]).items]


def test_an_engine_that_evaluates_more_than_the_request_has_avoided_nothing(tiny, monkeypatch):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        score = recommender.engine.score_session
        everything = len(tiny.prefix) + 4 + 1  # the prefix too, and a token twice
        monkeypatch.setattr(recommender.engine, "score_session", lambda *arguments: (score(*arguments)[0], everything))
        answer = recommender.recommend(TITLES[:4], session="me")
    assert (answer.tokens_computed, answer.tokens_avoided) == (everything, 0)


def test_sessions_under_threads_get_their_own_answers(engine, tiny):
    histories = [[n % 40, (n * 7) % 40, (n * 3) % 40] for n in range(40)]

    def ask(n):
        return engine.score_session(f"u{n % 20}", histories[n])[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(40)))
    np.testing.assert_allclose(np.stack(answers), tiny.scores(histories), atol=2e-2)
