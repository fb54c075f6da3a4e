"""Sessions give the same answers, compute only new items, are bounded, and are safe under threads."""

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


def test_the_number_of_sessions_is_bounded(engine, tiny):
    for n in range(SESSIONS + 1):
        engine.score_session(f"u{n}", [n, n + 1])
    assert engine.score_session("u1", [1, 2, 30])[1] == 1
    scores, computed = engine.score_session("u0", [0, 1, 30])
    np.testing.assert_allclose(scores, tiny.scores([[0, 1, 30]])[0], atol=2e-2)
    assert computed == 3  # the first session was dropped


def test_the_least_recently_used_session_is_dropped():
    table = Sessions(2, lambda slot: None)
    a, b = table.take("a", 1), table.take("b", 1)
    table.take("a", 1)
    c = table.take("c", 1)
    assert (c.slot, len(table)) == (b.slot, 2)
    assert table.take("a", 1) is a
    table.drop("a")
    assert table.take("d", 1).slot == a.slot
    table.drop("unknown")


def test_sessions_are_dropped_above_the_limit_of_tokens():
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


def test_a_failed_step_drops_the_session(engine, tiny, monkeypatch):
    engine.score_session("u", [1, 2])
    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: 1)
    with pytest.raises(DelrecError, match="code 1"):
        engine.score_session("u", [1, 2, 3])
    monkeypatch.undo()
    scores, computed = engine.score_session("u", [1, 2, 3])
    assert computed == 3
    np.testing.assert_allclose(scores, tiny.scores([[1, 2, 3]])[0], atol=2e-2)


def test_recommend_with_a_session_counts_the_saved_tokens(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        history = TITLES[:4]
        answer = recommender.recommend(history, k=5)
        first = recommender.recommend(history[:3], k=5, session="user")
        second = recommender.recommend(history, k=5, session="user")
        prefix = len(tiny.prefix)
        assert (answer.tokens_computed, answer.tokens_avoided) == (4, prefix)
        assert (first.tokens_computed, first.tokens_avoided) == (3, prefix)
        assert (second.tokens_computed, second.tokens_avoided) == (1, prefix + 3)
        assert [r.title for r in second.items] == [r.title for r in answer.items]
        excluded = answer.items[0].title
        assert excluded not in [r.title for r in recommender.recommend(history, k=50, exclude=[excluded]).items]


def test_the_number_of_avoided_tokens_is_never_negative(tiny, monkeypatch):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        score = recommender.engine.score_session
        everything = len(tiny.prefix) + 4 + 1  # also the prefix, and one token twice
        monkeypatch.setattr(recommender.engine, "score_session", lambda *arguments: (score(*arguments)[0], everything))
        answer = recommender.recommend(TITLES[:4], session="user")
    assert (answer.tokens_computed, answer.tokens_avoided) == (everything, 0)


def test_sessions_under_threads_get_the_answers_to_their_requests(engine, tiny):
    histories = [[n % 40, (n * 7) % 40, (n * 3) % 40] for n in range(40)]

    def ask(n):
        return engine.score_session(f"u{n % 20}", histories[n])[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(40)))
    np.testing.assert_allclose(np.stack(answers), tiny.scores(histories), atol=2e-2)
