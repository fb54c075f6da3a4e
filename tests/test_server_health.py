"""Health: a server is not ready when its model's thread ended, when it hangs, and when its answers fail."""

import asyncio
import json
import threading
import time

import pytest
from fastapi.testclient import TestClient

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server import health
from delrec_lite.server.api import make_api
from delrec_lite.server.health import MOST_FAILURES
from delrec_lite.server.worker import QueueFull, Worker
from delrec_lite.server.workers import Workers
from tests.bundles import TITLES, tiny_bundle

HISTORY = {"history": TITLES[:2]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("health")).bundle.folder


@pytest.fixture
def worker(bundle):
    opened = Worker(Recommender.load(bundle, threads=1), waiting=3, seconds=0.4)
    yield opened
    opened.close()


@pytest.fixture
def client(worker):
    with TestClient(make_api(worker), raise_server_exceptions=False) as opened:
        yield opened


def ready(client):
    answer = client.get("/readyz")
    assert answer.status_code in {200, 503}
    if answer.status_code == 503:
        assert set(answer.json()) == {"error", "hint"}
        assert int(answer.headers["Retry-After"]) > 0
    value = f"delrec_ready {float(answer.status_code == 200)}"
    if value not in client.get("/metrics").text:  # it has changed between the two
        assert client.get("/readyz").status_code != answer.status_code
    return "" if answer.status_code == 200 else answer.json()["error"]


def end_thread(worker, monkeypatch):
    """End the model's thread as a mistake outside of any request would."""

    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "_next", fail)
    worker.ask(lambda _: None).result(10)
    worker._thread.join(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_noticed_by_both_and_nobody_waits_for_it(client, worker, monkeypatch):
    assert ready(client) == ""
    end_thread(worker, monkeypatch)
    assert "thread of the model has ended" in ready(client)
    assert client.get("/healthz").status_code == 503
    start = time.monotonic()
    assert client.post("/v1/recommend", json=HISTORY).status_code == 503
    with pytest.raises(QueueFull):
        worker.replace(worker.recommender)
    assert time.monotonic() - start < 0.4


def test_a_model_that_hangs_is_not_ready_until_it_answers_again(client, worker):
    go, started = threading.Event(), threading.Event()
    worker.ask(lambda _: (started.set(), go.wait(30)))
    started.wait(10)
    time.sleep(0.5)
    assert "answered nothing" in ready(client)
    assert client.get("/healthz").status_code == 200, "a new start may not be needed"
    go.set()
    wait_until(lambda: ready(client) == "")


def test_a_model_that_hangs_is_not_ready_where_the_queue_is_full_too(client, worker):
    go, started = threading.Event(), threading.Event()
    worker.ask(lambda _: (started.set(), go.wait(30)))
    started.wait(10)
    for _ in range(3):
        worker.ask(lambda _: None)
    time.sleep(0.5)
    wait_until(lambda: "answered nothing" in ready(client))
    go.set()
    wait_until(lambda: ready(client) == "")


def test_answers_that_fail_make_it_not_ready_until_one_succeeds(client, monkeypatch, caplog):
    with monkeypatch.context() as patched, caplog.at_level("WARNING", "delrec_lite.server"):
        patched.setattr(Recommender, "prepare", lambda *_, **__: 1 / 0)
        for n in range(MOST_FAILURES):
            assert client.get("/healthz").status_code == 200
            assert n or ready(client) == ""
            answer = client.post("/v1/recommend", json=HISTORY)
            assert (answer.status_code, len(answer.headers["X-Request-Id"])) == (500, 32)
        assert "answers of the model failed" in ready(client)
        assert "failed" in ready(client), "its own questions fail too"
    assert client.post("/v1/recommend", json=HISTORY).status_code == 200
    assert ready(client) == ""
    said = [json.loads(record.message) for record in caplog.records if '"ready"' in record.message]
    assert [line["ready"] for line in said][:1] == [False], "once"


def test_a_model_that_is_mended_is_ready_again_without_a_request(client, worker, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Recommender, "prepare", lambda *_, **__: 1 / 0)
        for _ in range(MOST_FAILURES):
            client.post("/v1/recommend", json=HISTORY)
        assert ready(client)
    time.sleep(0.5)  # the last answer is not recent
    wait_until(lambda: ready(client) == "")


def test_wrong_requests_do_not_make_it_not_ready(client):
    for _ in range(2 * MOST_FAILURES):
        assert client.post("/v1/recommend", json={"history": ["?"], "on_unknown": "refuse"}).status_code == 400
    assert ready(client) == ""


def test_scores_that_are_no_numbers_are_a_failure(worker, client, monkeypatch):
    monkeypatch.setattr(health, "RECENT", 0.0)
    scores = type(worker.recommender.engine).scores
    monkeypatch.setattr(type(worker.recommender.engine), "scores", lambda *arguments: scores(*arguments) * float("nan"))
    for _ in range(MOST_FAILURES):
        ready(client)
    assert ready(client)


def test_a_busy_model_is_ready(worker):
    """Between the steps of long work it answers."""

    async def check():
        api = make_api(worker)
        with TestClient(api) as client:
            body = {"histories": [TITLES[:9]] * 300}
            asked = asyncio.to_thread(client.post, "/v1/batch", json=body)
            task = asyncio.ensure_future(asked)
            for _ in range(3):
                assert await asyncio.to_thread(ready, client) == ""
            assert (await task).status_code in {200, 504}

    asyncio.run(check())


def test_every_copy_of_a_model_is_watched(bundle):
    workers = [Worker(Recommender.load(bundle, threads=1), seconds=0.4) for _ in range(2)]
    go, started = threading.Event(), threading.Event()
    with TestClient(make_api(Workers(workers))) as client:
        assert ready(client) == ""
        workers[1].ask(lambda _: (started.set(), go.wait(30)))
        started.wait(10)
        time.sleep(0.5)
        assert "copy 2 of the model has answered nothing" in ready(client)
        assert client.post("/v1/recommend", json=HISTORY).status_code == 200, "the other copy answers"
        go.set()
        wait_until(lambda: ready(client) == "")
        assert "delrec_queue_seconds_count 0.0" not in client.get("/metrics").text


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
