"""The HTTP API: its contract, its limits, and that nothing a caller sends makes it fail."""

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


def test_a_session_pays_for_what_is_new(client):
    client.post("/v1/recommend", json={"history": TITLES[:4], "session": "me"})
    answer = client.post("/v1/recommend", json={"history": TITLES[:5], "session": "me"}).json()
    assert answer["tokens_computed"] == 1
    text = client.get("/metrics").text
    assert "delrec_session_hits_total 1.0" in text
    assert 'delrec_requests_total{path="/v1/recommend",status="200"}' in text


def test_a_wrong_count_of_tokens_is_no_reason_to_refuse_an_answer():
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
    why = client.post("/v1/explain", json={"history": TITLES[:3], "item": TITLES[9]}).json()
    assert why["title"] == TITLES[9]
    assert len(why["contributions"]) == 3
    matches = client.get("/v1/items", params={"query": "red rivr", "limit": 3}).json()
    assert matches[0]["title"] == "Red River (1950)"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    assert "/v1/recommend" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"history": ["No such title at all"]}, 400, "no item is called"),
        ({"history": []}, 422, "history"),
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
def test_what_cannot_be_meant_is_refused_with_a_remedy(client, body, status, words):
    answer = client.post("/v1/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert answer.json()["hint"]


def test_bodies_are_limited_however_they_come(client):
    answer = client.post("/v1/recommend", content=b"x" * (BODY_BYTES + 1))
    assert answer.status_code == 413
    answer = client.post("/v1/recommend", content=(b"x" * 100_000 for _ in range(BODY_BYTES // 100_000 + 1)))
    assert answer.status_code == 413
    assert client.post("/v1/recommend", content=b"{").status_code == 422
    assert client.get("/nothing").status_code == 404
    assert client.get("/v1/recommend").status_code == 405


def test_a_key_is_asked_for_where_one_is_set(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)), key="schlüssel")) as client:
        body = {"history": TITLES[:1]}
        assert client.post("/v1/recommend", json=body).status_code == 401
        assert client.post("/v1/recommend", json=body, headers={"Authorization": "Bearer no"}).status_code == 401
        right = {"Authorization": "Bearer schlüssel".encode()}
        assert client.post("/v1/recommend", json=body, headers=right).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == 200


class Slow:
    """Stands in for a recommender: answers when it is let."""

    def __init__(self):
        self.go, self.closed = threading.Event(), False

    def close(self):
        self.closed = True


def test_a_full_queue_refuses_and_what_waits_is_answered_before_the_end():
    slow = Slow()
    worker = Worker(slow, waiting=2)
    begun = threading.Event()

    def work(recommender):
        begun.set()
        recommender.go.wait(10)
        return "done"

    futures = [worker.ask(work)]
    begun.wait(10)
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


def test_what_waited_too_long_or_was_given_up_is_not_begun():
    slow = Slow()
    worker = Worker(slow, waiting=5, seconds=0.05)
    begun, ran = threading.Event(), []

    def first(recommender):
        begun.set()
        recommender.go.wait(10)

    worker.ask(first)
    begun.wait(10)
    late, gone = worker.ask(ran.append), worker.ask(ran.append)
    assert gone.cancel()
    time.sleep(0.1)
    slow.go.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    worker.close()
    assert ran == []


def test_an_error_in_one_request_leaves_the_next_alone():
    worker = Worker(Slow())
    with pytest.raises(ZeroDivisionError):
        worker.ask(lambda _: 1 / 0).result(5)
    assert worker.ask(lambda _: 7).result(5) == 7
    worker.close()


def test_a_full_server_says_503_and_when_to_come_back(bundle):
    worker = Worker(Recommender.load(bundle, threads=1), waiting=1)
    go, begun = threading.Event(), threading.Event()
    with TestClient(make_api(worker)) as client:
        worker.ask(lambda _: (begun.set(), go.wait(10)))
        begun.wait(10)
        worker.ask(lambda _: None)
        answer = client.post("/v1/recommend", json={"history": TITLES[:1]})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        go.set()
        for _ in range(100):
            if worker.waiting() == 0:
                break
            time.sleep(0.02)
        assert client.post("/v1/recommend", json={"history": TITLES[:1]}).status_code == 200


def test_a_newer_bundle_takes_over_between_two_requests(bundle, tmp_path):
    worker = Worker(Recommender.load(bundle, threads=1))
    other = Recommender.load(tiny_bundle(tmp_path, seed=9, name="other").bundle.folder, threads=1)
    with TestClient(make_api(worker)) as client:
        before = client.post("/v1/recommend", json={"history": TITLES[:2]}).json()["items"]
        worker.replace(other)
        assert client.get("/readyz").json()["bundle"] == "other"
        after = client.post("/v1/recommend", json={"history": TITLES[:2]}).json()["items"]
        assert [i["score"] for i in before] != [i["score"] for i in after]


def test_titles_are_data(client):
    answer = client.post("/v1/recommend", json={"history": [MARKUP], "k": 3})
    assert answer.status_code == 200
    assert answer.json()["matched"][0]["title"] == MARKUP
    assert answer.json()["tokens_computed"] == 1
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "innerHTML" not in page.text


def junk(rng):
    """Some JSON, more or less like a request."""
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


def test_five_thousand_odd_bodies_and_never_a_failure_of_ours(client):
    rng = random.Random(1)
    seen = set()
    for n in range(5000):
        path = rng.choice(["/v1/recommend", "/v1/recommend", "/v1/batch", "/v1/explain", "/v1/teacher"])
        content = json.dumps(junk(rng)).encode()
        if n % 10 == 0:  # broken bytes
            cut = rng.randrange(len(content))
            content = content[:cut] + bytes([rng.randrange(256)]) + content[cut + 1 :]
        start = time.monotonic()
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert time.monotonic() - start < 30, (path, content)
        assert answer.status_code < 500, (path, content, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()) == {"error", "hint"}
    assert {200, 400, 422} <= seen


def test_odd_searches(client):
    for query in ["", " ", "\x00", "%", "a" * 500, MARKUP, "東京", "id:3"]:
        assert client.get("/v1/items", params={"query": query}).status_code == 200
    assert client.get("/v1/items", params={"limit": 0}).status_code == 422


def test_the_documented_paths_are_those_of_the_api(client):
    """Of docs/serving.md; what each takes and gives is in the OpenAPI document."""
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(?:GET|POST) (\S+?)\??(?:query=)?`((?:, `\S+?`)*)", page, re.MULTILINE)
    documented = {path for first, more in rows for path in (first, *re.findall(r"`(\S+?)`", more))}
    assert documented - {"/", "/docs"} == set(client.get("/openapi.json").json()["paths"])


def test_a_missing_teacher_is_said_to_be_missing(client):
    answer = client.post("/v1/teacher", json={"history": [TITLES[0]]})
    assert answer.status_code == 400
    assert "teacher" in answer.json()["error"]
    assert client.get("/readyz").json()["teacher"] == "no"
