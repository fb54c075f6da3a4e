"""Long requests are answered in steps: others go between them, and they stop at the deadline or when nobody waits."""

import threading
import time

import pytest
from fastapi.testclient import TestClient

from delrec_lite.runtime.answer import Ranking
from delrec_lite.runtime.matching import Matcher
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.steps import STEP
from delrec_lite.server.worker import DeadlineExceeded, Worker
from tests.bundles import TITLES, tiny_bundle


class Model:
    """Something that is served."""

    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def worker():
    worker = Worker(Model())
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("steps")).bundle.folder


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def counting(name, steps, log, go=None):
    """Work of so many steps, each of which is logged; the first one waits for ``go``."""

    def work(_):
        for step in range(steps):
            log.append(name)
            if go is not None and step == 0:
                go.wait(10)
            if step < steps - 1:
                yield steps - 1 - step
        return name

    return work


def test_short_requests_go_between_the_steps_of_a_long_one(worker):
    log, go = [], threading.Event()
    futures = [worker.ask(counting("long", 3, log, go), size=3)]
    wait_until(lambda: log)
    futures += [worker.ask(lambda _: log.append("short")) for _ in range(5)]
    time.sleep(0.1)  # the long request has taken more time than the short ones will
    go.set()
    for future in futures:
        future.result(10)
    assert log == ["long", *["short"] * 5, "long", "long"]
    assert futures[0].result() == "long"


def test_of_two_long_requests_the_one_with_less_to_do_is_finished_first(worker):
    log, go = [], threading.Event()
    first = worker.ask(counting("first", 1, log, go), size=2)
    wait_until(lambda: log)
    large = worker.ask(counting("large", 4, log), size=4)
    small = worker.ask(counting("small", 2, log), size=2)
    go.set()
    assert (first.result(10), large.result(10), small.result(10)) == ("first", "large", "small")
    assert log == ["first", "small", "small", *["large"] * 4]


def test_a_long_request_stops_at_its_deadline():
    worker, log = Worker(Model(), seconds=0.05), []

    def endless(_):
        for step in range(1000):
            log.append(step)
            time.sleep(0.02)
            yield 1000 - step

    with pytest.raises(DeadlineExceeded, match=r"^only \d+% of the work was done in time$") as caught:
        worker.ask(endless, size=1000).result(10)
    assert "send a smaller request" in caught.value.hint
    assert worker.ask(lambda _: "next").result(10) == "next"
    assert len(log) < 10
    worker.close()


def test_a_long_request_stops_when_its_caller_has_gone(worker):
    log, go = [], threading.Event()
    future = worker.ask(counting("long", 1000, log, go), size=1000)
    wait_until(lambda: log)
    future.cancel()
    go.set()
    assert worker.ask(lambda _: "next").result(10) == "next"
    assert worker.waiting() == 0
    worker.close()
    assert log == ["long"]


def test_a_long_request_keeps_the_recommender_that_it_began_with(worker):
    old, new, seen, stop = worker.recommender, Model(), [], threading.Event()

    def work(recommender):
        while not stop.is_set():
            seen.append((recommender is old, recommender.closed))
            time.sleep(0.001)
            yield 2

    future = worker.ask(work, size=3)
    wait_until(lambda: seen)
    worker.replace(new)
    assert worker.ask(lambda recommender: recommender).result(10) is new
    wait_until(lambda: len(seen) > 5)
    stop.set()
    future.result(10)
    assert worker.ask(lambda recommender: recommender).result(10) is new
    assert set(seen) == {(True, False)}
    assert old.closed
    assert not new.closed


def test_a_batch_past_its_deadline_is_refused_and_blocks_nobody(bundle, monkeypatch):
    worker = Worker(Recommender.load(bundle, threads=1), seconds=0.3)
    batches = []

    def slow(_, histories, *__, **___):
        batches.append(len(histories))
        time.sleep(0.1)
        return [Ranking([]) for _ in histories]

    monkeypatch.setattr(Recommender, "recommend_batch", slow)
    with TestClient(make_api(worker)) as client:
        answer = client.post("/v1/batch", json={"histories": [TITLES[:2]] * 400})
        assert answer.status_code == 504
        assert "of the work was done in time" in answer.json()["error"]
        start = time.monotonic()
        assert client.post("/v1/recommend", json={"history": TITLES[:2]}).status_code == 200
        assert time.monotonic() - start < 5
    assert len(batches) < 10
    assert set(batches) == {STEP}


def test_a_batch_knows_candidates_and_exclusions_of_each_history(bundle):
    histories = [TITLES[:2], TITLES[3:5], [TITLES[7], "Something new"]]
    candidates, exclude = [None, TITLES[10:15], None], [TITLES[20:25], [TITLES[11]], []]
    body = {"histories": histories, "k": 7, "allow_new": True, "candidates": candidates, "exclude": exclude}
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as client:
        answers = client.post("/v1/batch", json=body).json()["answers"]
        for history, own, excluded, ranking in zip(histories, candidates, exclude, answers, strict=True):
            single = {"history": history, "k": 7, "allow_new": True, "candidates": own, "exclude": excluded}
            items = client.post("/v1/recommend", json=single).json()["items"]
            assert [item["id"] for item in ranking] == [item["id"] for item in items]
        answer = client.post("/v1/batch", json={"histories": histories, "exclude": [[]]})
        assert (answer.status_code, answer.json()["error"]) == (422, "exclude has 1 entries for 3 histories")
        many = {"histories": [TITLES[n : n + 3] for n in range(3 * STEP + 1)], "k": 3}
        answers = client.post("/v1/batch", json=many).json()["answers"]
        expected = rankings_of(bundle, many["histories"], 3)
    assert [[item["id"] for item in ranking] for ranking in answers] == expected


def rankings_of(bundle, histories, k):
    with Recommender.load(bundle, threads=1) as recommender:
        return [[item.id for item in ranking] for ranking in recommender.recommend_batch(histories, k)]


def test_long_lists_of_titles_are_looked_up_in_steps_and_once(bundle, monkeypatch):
    searched = []

    def slow(_, text):
        searched.append(text)
        time.sleep(0.001)

    monkeypatch.setattr(Matcher, "_search_titles", slow)
    worker = Worker(Recommender.load(bundle, threads=1), seconds=0.5)
    unknown = [f"unknown {n}" for n in range(2000)]
    with TestClient(make_api(worker)) as client:
        few = client.post("/v1/recommend", json={"history": TITLES[:2], "exclude": unknown[:100]})
        assert few.status_code == 200
        assert [skipped["given"] for skipped in few.json()["skipped"]] == searched == unknown[:100]
        body = {"history": TITLES[:2], "exclude": unknown, "candidates": [f"other {n}" for n in range(2000)]}
        assert client.post("/v1/recommend", json=body).status_code == 504
        assert len(searched) < 2000
