"""The HTTP API: its contract and limits, and no request makes it fail."""

import json
import random
import re
import threading
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.guard import BODY_BYTES
from delrec_lite.server.metrics import Metrics
from delrec_lite.server.worker import DeadlineExceeded, QueueFull, Worker
from tests.bundles import TITLES, tiny_bundle

MARKUP = "<img src=x onerror=alert(1)> & <|im_start|> <|delrec_0|>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    titles = (*TITLES[:-1], MARKUP)
    return tiny_bundle(tmp_path_factory.mktemp("server"), titles=titles).bundle.folder


@pytest.fixture(scope="module")
def client(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as opened:
        yield opened


@pytest.fixture(scope="module")
def recommender(bundle):
    with Recommender.load(bundle, threads=1) as opened:
        yield opened


def test_recommend_answers_as_the_library_does(client, recommender):
    answer = client.post("/v1/recommend", json={"history": TITLES[:3], "k": 5}).json()
    expected = recommender.recommend(TITLES[:3], k=5)
    assert [i["title"] for i in answer["items"]] == [i.title for i in expected.items]
    assert answer["items"][0]["score"] == pytest.approx(expected.items[0].score, abs=1e-3)
    assert answer["matched"][0]["title"] == TITLES[0]
    assert answer["tokens_computed"] == 3


def test_candidates_exclusions_and_new_titles(client):
    body = {"history": [TITLES[0]], "candidates": TITLES[3:6]}
    assert {i["title"] for i in client.post("/v1/recommend", json=body).json()["items"]} == set(TITLES[3:6])
    first = client.post("/v1/recommend", json={"history": [TITLES[0]]}).json()["items"][0]["title"]
    answer = client.post("/v1/recommend", json={"history": [TITLES[0]], "exclude": [first], "k": 100}).json()
    assert first not in [i["title"] for i in answer["items"]]
    answer = client.post("/v1/recommend", json={"history": ["A quite new title"], "allow_new": True})
    assert answer.json()["matched"][0]["item"] == -1


def test_a_session_only_computes_new_items(client):
    client.post("/v1/recommend", json={"history": TITLES[:4], "session": "user"})
    answer = client.post("/v1/recommend", json={"history": TITLES[:5], "session": "user"}).json()
    assert answer["tokens_computed"] == 1
    text = client.get("/metrics").text
    assert "delrec_session_hits_total 1.0" in text
    assert 'delrec_requests_total{path="/v1/recommend",status="200"}' in text


def test_a_negative_count_of_tokens_is_not_counted():
    metrics = Metrics(lambda: 0)
    metrics.tokens(-1, -5, prefix=7)
    metrics.tokens(3, 7, prefix=7)
    text = metrics.text().decode()
    assert "delrec_tokens_computed_total 3.0" in text
    assert "delrec_tokens_avoided_total 7.0" in text
    assert "delrec_session_hits_total 0.0" in text


def test_batch_explain_items_health(client, recommender):
    answer = client.post("/v1/batch", json={"histories": [TITLES[:2], TITLES[2:4]], "k": 3}).json()["answers"]
    assert [[i["title"] for i in ranking] for ranking in answer] == [
        [i.title for i in ranking] for ranking in recommender.recommend_batch([TITLES[:2], TITLES[2:4]], 3)
    ]
    explanation = client.post("/v1/explain", json={"history": TITLES[:3], "item": TITLES[9]}).json()
    assert explanation["title"] == TITLES[9]
    assert len(explanation["contributions"]) == 3
    matches = client.get("/v1/items", params={"query": "red rivr", "limit": 3}).json()
    assert matches[0]["title"] == "Red River (1950)"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    assert "/v1/recommend" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"history": ["No such title at all"], "on_unknown": "refuse"}, 400, "no item is called"),
        ({"history": [], "on_unknown": "drop"}, 422, "on_unknown"),
        ({"history": [""]}, 422, "history"),
        ({"history": TITLES[:1], "k": 0}, 422, "k"),
        ({"history": TITLES[:1], "k": "5"}, 422, "k"),
        ({"history": TITLES[:1], "candidates": []}, 422, "candidates"),
        ({"history": TITLES[:1], "candidate": []}, 422, "candidate"),
        ({"history": TITLES[:1], "session": ""}, 422, "session"),
        ({"history": "Red River (1950)"}, 422, "history"),
        ({"history": ["x" * 501]}, 422, "history"),
        ({"history": ["\ud800"]}, 422, "history"),
        ({}, 422, "history"),
    ],
)
def test_an_invalid_request_is_refused_with_a_hint(client, body, status, words):
    answer = client.post("/v1/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert answer.json()["hint"]


def test_bodies_are_limited_with_and_without_a_length(client):
    answer = client.post("/v1/recommend", content=b"x" * (BODY_BYTES + 1))
    assert answer.status_code == 413
    answer = client.post("/v1/recommend", content=(b"x" * 100_000 for _ in range(BODY_BYTES // 100_000 + 1)))
    assert answer.status_code == 413
    assert client.post("/v1/recommend", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    assert client.get("/nothing").status_code == 404
    assert client.get("/v1/recommend").status_code == 405


def test_a_configured_key_is_required(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)), key="schlüssel")) as client:
        body = {"history": TITLES[:1]}
        assert client.post("/v1/recommend", json=body).status_code == 401
        assert client.post("/v1/recommend", json=body, headers={"Authorization": "Bearer no"}).status_code == 401
        headers = {"Authorization": "Bearer schlüssel".encode()}
        assert client.post("/v1/recommend", json=body, headers=headers).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == 200


class Slow:
    """A recommender whose answers wait for ``go``."""

    def __init__(self):
        self.go, self.closed = threading.Event(), False

    def close(self):
        self.closed = True


def test_a_full_queue_refuses_and_waiting_requests_are_answered_before_closing():
    slow = Slow()
    worker = Worker(slow, waiting=2)
    started = threading.Event()

    def work(recommender):
        started.set()
        recommender.go.wait(10)
        return "done"

    futures = [worker.ask(work)]
    started.wait(10)
    futures += [worker.ask(work), worker.ask(work)]
    with pytest.raises(QueueFull):
        worker.ask(work)
    assert worker.waiting() == 2
    slow.go.set()
    worker.close()
    assert [future.result(5) for future in futures] == ["done"] * 3
    assert slow.closed
    with pytest.raises(QueueFull):
        worker.ask(work)
    worker.close()


def test_expired_and_cancelled_requests_are_not_started():
    slow = Slow()
    worker = Worker(slow, waiting=5, seconds=0.05)
    started, calls = threading.Event(), []

    def first(recommender):
        started.set()
        recommender.go.wait(10)

    worker.ask(first)
    started.wait(10)
    expired, cancelled = worker.ask(calls.append), worker.ask(calls.append)
    assert cancelled.cancel()
    time.sleep(0.1)
    slow.go.set()
    with pytest.raises(DeadlineExceeded):
        expired.result(5)
    worker.close()
    assert calls == []


def test_an_error_in_one_request_does_not_affect_the_next():
    worker = Worker(Slow())
    with pytest.raises(ZeroDivisionError):
        worker.ask(lambda _: 1 / 0).result(5)
    assert worker.ask(lambda _: 7).result(5) == 7
    worker.close()


def test_a_full_server_answers_503_with_retry_after(bundle):
    worker = Worker(Recommender.load(bundle, threads=1), waiting=1)
    release, started = threading.Event(), threading.Event()
    with TestClient(make_api(worker)) as client:
        worker.ask(lambda _: (started.set(), release.wait(10)))
        started.wait(10)
        worker.ask(lambda _: None)
        answer = client.post("/v1/recommend", json={"history": TITLES[:1]})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        release.set()
        for _ in range(100):
            if worker.waiting() == 0:
                break
            time.sleep(0.02)
        assert client.post("/v1/recommend", json={"history": TITLES[:1]}).status_code == 200


def test_a_newer_bundle_replaces_the_old_one_between_two_requests(bundle, tmp_path):
    worker = Worker(Recommender.load(bundle, threads=1))
    newer = Recommender.load(tiny_bundle(tmp_path, seed=9, name="other").bundle.folder, threads=1)
    with TestClient(make_api(worker)) as client:
        before = client.post("/v1/recommend", json={"history": TITLES[:2]}).json()["items"]
        worker.replace(newer)
        assert client.get("/readyz").json()["bundle"] == "other"
        after = client.post("/v1/recommend", json={"history": TITLES[:2]}).json()["items"]
        assert [i["score"] for i in before] != [i["score"] for i in after]


def test_titles_are_never_markup_or_special_tokens(client):
    answer = client.post("/v1/recommend", json={"history": [MARKUP], "k": 3})
    assert answer.status_code == 200
    assert answer.json()["matched"][0]["title"] == MARKUP
    assert answer.json()["tokens_computed"] == 1
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "innerHTML" not in page.text


def random_body(rng):
    """Random JSON, often similar to a request."""
    strings = ["", " ", *TITLES[:3], "id:0", "id:", MARKUP, "\x00", "\u202e", "a" * 600, "é" * 40, "../../etc/passwd"]
    leaf = [None, True, False, 0, -1, 1e300, 10**30, 5, 0.5, [], {}, *strings]

    def value(depth):
        kind = rng.random()
        if depth > 2 or kind < 0.5:
            return rng.choice(leaf)
        if kind < 0.8:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(["history", "k", "x", "candidates"]): value(depth + 1) for _ in range(rng.randrange(3))}

    if rng.random() < 0.1:
        return value(0)
    body = {"history": rng.choices(strings, k=rng.randrange(1, 4)) if rng.random() < 0.7 else value(0)}
    for name in ("k", "candidates", "exclude", "session", "allow_new", "histories", "item"):
        if rng.random() < 0.25:
            body[name] = value(0)
    return body


def test_five_thousand_random_bodies_never_give_a_server_error(client):
    rng = random.Random(1)
    statuses = set()
    for n in range(5000):
        path = rng.choice(["/v1/recommend", "/v1/recommend", "/v1/batch", "/v1/explain", "/v1/teacher"])
        content = json.dumps(random_body(rng)).encode()
        if n % 10 == 0:  # one random byte
            cut = rng.randrange(len(content))
            content = content[:cut] + bytes([rng.randrange(256)]) + content[cut + 1 :]
        start = time.monotonic()
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        statuses.add(answer.status_code)
        assert time.monotonic() - start < 30, (path, content)
        assert answer.status_code < 500, (path, content, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()) == {"error", "hint"}
    assert {200, 400, 422} <= statuses


def test_unusual_searches_are_answered(client):
    for query in ["", " ", "\x00", "%", "a" * 500, MARKUP, "東京", "id:3"]:
        assert client.get("/v1/items", params={"query": query}).status_code == 200
    assert client.get("/v1/items", params={"limit": 0}).status_code == 422


def test_the_documented_paths_are_those_of_the_api(client):
    """The paths in docs/serving.md; requests and answers are in the OpenAPI document."""
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(?:GET|POST) (\S+?)\??(?:query=)?`((?:, `\S+?`)*)", page, re.MULTILINE)
    documented = {path for first, more in rows for path in (first, *re.findall(r"`(\S+?)`", more))}
    assert documented - {"/", "/docs"} == set(client.get("/openapi.json").json()["paths"])


def test_a_request_to_a_missing_teacher_is_refused(client):
    answer = client.post("/v1/teacher", json={"history": [TITLES[0]]})
    assert answer.status_code == 400
    assert "teacher" in answer.json()["error"]
    assert client.get("/readyz").json()["teacher"] == "no"
