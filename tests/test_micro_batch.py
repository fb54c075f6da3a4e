"""Requests that wait are evaluated together: same answers, nobody waits for more, one that fails harms no other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient

from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server import serve
from delrec_lite.server.api import make_api
from delrec_lite.server.schemas import RecommendBody
from delrec_lite.server.settings import Settings
from delrec_lite.server.steps import recommend_steps
from delrec_lite.server.worker import DeadlineExceeded, QueueFull, Worker
from delrec_lite.server.workers import Workers
from tests.bundles import TITLES, tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("together")).bundle.folder


@pytest.fixture
def make(bundle):
    """Workers over the bundle that log the size of every evaluation."""
    made = []

    def make_worker(**arguments):
        worker = Worker(Recommender.load(bundle, threads=1), **arguments)
        made.append(worker)
        worker.groups = []
        worker.on_group = worker.groups.append
        return worker

    yield make_worker
    for worker in made:
        worker.close()


@pytest.fixture(scope="module")
def recommender(bundle):
    with Recommender.load(bundle, threads=1) as loaded:
        yield loaded


class Busy:
    """Keeps a worker busy until ``release``."""

    def __init__(self, worker):
        self._go, started = threading.Event(), threading.Event()
        worker.ask(lambda _: (started.set(), self._go.wait(10)))
        assert started.wait(10)

    def release(self):
        self._go.set()


def ask(worker, history, **fields):
    body = RecommendBody(history=history, **fields)
    return worker.ask(lambda r: recommend_steps(r, body), joins=True, session=body.session)


def titles(answer):
    return [item.title for item in answer.items]


HISTORIES = [TITLES[n : n + 2 + n % 5] for n in range(20)]


def test_waiting_requests_are_evaluated_together_and_answered_as_alone(make, recommender):
    worker = make()
    busy = Busy(worker)
    futures = [ask(worker, h, session=f"u{n}" if n % 2 else None) for n, h in enumerate(HISTORIES)]
    busy.release()
    for history, future in zip(HISTORIES, futures, strict=True):
        answer, lone = future.result(10), recommender.recommend(history)
        assert titles(answer) == titles(lone)
        # llama.cpp rounds a batch of another shape otherwise.
        np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in lone.items], atol=2e-2)
        assert answer.tokens_computed == lone.tokens_computed
    assert worker.groups == [16, 4]
    continued = ask(worker, [*HISTORIES[1], TITLES[30]], session="u1").result(10)
    assert continued.tokens_computed == 1


@pytest.mark.parametrize(("together", "groups"), [(1, [1] * 5), (3, [3, 2])])
def test_the_number_of_requests_is_bounded(make, together, groups):
    worker = make(together=together)
    busy = Busy(worker)
    futures = [ask(worker, history) for history in HISTORIES[:5]]
    busy.release()
    for future in futures:
        future.result(10)
    assert worker.groups == groups


def test_an_idle_worker_waits_for_nobody(make):
    worker = make()
    for history in HISTORIES[:3]:
        ask(worker, history).result(10)
    assert worker.groups == [1, 1, 1]


def test_a_request_that_fails_harms_no_other(make, recommender):
    worker = make()
    busy = Busy(worker)
    good = [ask(worker, history) for history in HISTORIES[:3]]
    unknown = ask(worker, ["No such title"], on_unknown="refuse")
    cancelled = ask(worker, HISTORIES[3])
    good.append(ask(worker, [], k=3))
    cancelled.cancel()
    busy.release()
    assert [titles(f.result(10)) for f in good[:3]] == [titles(recommender.recommend(h)) for h in HISTORIES[:3]]
    assert good[3].result(10).basis == "popularity"
    with pytest.raises(UsageError, match="No such title"):
        unknown.result(10)
    assert worker.groups == [4]


def test_a_group_that_fails_is_evaluated_one_by_one(make, recommender, monkeypatch):
    evaluate = Recommender.evaluate

    def fail(self, prepared):
        if len(prepared) > 1 or prepared[0].read.matched[0].title == HISTORIES[1][0]:
            raise DelrecError("no memory", "free some")
        return evaluate(self, prepared)

    monkeypatch.setattr(Recommender, "evaluate", fail)
    worker = make()
    busy = Busy(worker)
    futures = [ask(worker, history) for history in HISTORIES[:3]]
    busy.release()
    assert titles(futures[0].result(10)) == titles(recommender.recommend(HISTORIES[0]))
    with pytest.raises(DelrecError, match="no memory"):
        futures[1].result(10)
    assert titles(futures[2].result(10)) == titles(recommender.recommend(HISTORIES[2]))


def test_a_request_past_its_deadline_is_not_evaluated(make):
    worker = make(seconds=0.2)
    busy = Busy(worker)
    late = [ask(worker, history) for history in HISTORIES[:2]]
    time.sleep(0.3)
    in_time = ask(worker, HISTORIES[2])
    busy.release()
    assert in_time.result(10).items
    for future in late:
        with pytest.raises(DeadlineExceeded):
            future.result(10)
    assert worker.groups == [1]


def test_a_full_queue_stays_full(make):
    worker = make(waiting=2)
    busy = Busy(worker)
    futures = [ask(worker, history) for history in HISTORIES[:2]]
    with pytest.raises(QueueFull):
        ask(worker, HISTORIES[2])
    busy.release()
    assert all(future.result(10).items for future in futures)


def test_long_requests_get_their_half_of_the_time(make):
    worker, log = make(together=2), []

    def long(_):
        for step in range(3):
            log.append("long")
            time.sleep(0.05)
            yield 3 - step

    busy = Busy(worker)
    futures = [worker.ask(long, size=4), *(ask(worker, history) for history in HISTORIES[:4])]
    busy.release()
    for future in futures:
        future.result(10)
    assert log == ["long"] * 3
    assert sum(worker.groups) == 4


def test_requests_of_many_clients_are_answered_as_that_of_one(bundle):
    bodies = [{"history": history, "k": 10, "session": f"u{n % 7}"} for n, history in enumerate(HISTORIES * 3)]
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as client:
        lone = [client.post("/v1/recommend", json=body | {"session": None}).json()["items"] for body in bodies]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda body: client.post("/v1/recommend", json=body).json()["items"], bodies))
        text = client.get("/metrics").text
    for one, other in zip(answers, lone, strict=True):
        assert [item["title"] for item in one] == [item["title"] for item in other]
    assert "delrec_evaluated_together_count" in text


def test_a_session_goes_to_one_worker_and_others_to_the_idle_one(bundle):
    workers = [Worker(Recommender.load(bundle, threads=1), seconds=20) for _ in range(3)]
    together = Workers(workers)
    assert len({id(recommender) for recommender in together.recommenders}) == 3
    history = TITLES[:2]
    for n in range(3, 8):
        history = [*TITLES[:n]]
        for user in range(9):
            answer = ask(together, history, session=f"user {user}").result(10)
            assert answer.tokens_computed == (1 if n > 3 else 3)
    used = {id(together._worker_for(f"user {user}")) for user in range(50)}
    assert len(used) == 3
    busy = [Busy(workers[0]), Busy(workers[2])]
    assert together._worker_for(None) is workers[1]
    assert ask(together, history).result(10).items
    for one in busy:
        one.release()
    together.close()
    with pytest.raises(QueueFull, match="stopping"):
        ask(together, history)


def test_a_newer_bundle_reaches_every_worker(bundle, tmp_path, monkeypatch):
    newer = tiny_bundle(tmp_path, seed=9, name="other").bundle.folder
    workers = Workers([Worker(Recommender.load(bundle, threads=1)) for _ in range(2)])
    old = workers.recommenders
    new = [Recommender.load(newer, threads=1) for _ in range(2)]
    workers.replace(*new)
    assert workers.recommenders == new
    with Recommender.load(newer, threads=1) as lone:
        expected = titles(lone.recommend(TITLES[:2]))
    for user in range(6):
        assert titles(ask(workers, TITLES[:2], session=f"u{user}").result(10)) == expected
    workers.close()
    for closed in (*old, *new):
        with pytest.raises(DelrecError, match="closed"):
            closed.recommend(TITLES[:2])
    opened = []
    monkeypatch.setattr(serve, "load", lambda *_: opened.append(Recommender.load(newer, threads=1)) or opened[-1])
    serve._reload(newer, Settings(workers=2), workers)  # too late: what it loaded is closed
    assert len(opened) == 2
    for late in opened:
        with pytest.raises(DelrecError, match="closed"):
            late.recommend(TITLES[:2])


def test_a_change_of_availability_reaches_every_worker(bundle):
    recommenders = serve.load_all(bundle, Settings(workers=2, threads=1))
    workers = Workers([Worker(recommender) for recommender in recommenders])
    first = ask(workers, TITLES[:2]).result(10).items[0]
    with TestClient(make_api(workers)) as client:
        assert client.post("/v1/catalog/availability", json={"unavailable": [first.id]}).status_code == 200
        for user in range(6):
            answer = client.post("/v1/recommend", json={"history": TITLES[:2], "session": f"u{user}", "k": 40}).json()
            assert first.id not in [item["id"] for item in answer["items"]]
