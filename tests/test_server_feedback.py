"""`POST /v1/feedback` and the log of served lists over HTTP."""

import json
import random
import sqlite3
from contextlib import closing

import pytest
from fastapi.testclient import TestClient

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.feedback.store import NotStored, Store
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle
from tests.serving import Served

HISTORY = {"history": TITLES[:2], "k": 3, "session": "user 7"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("feedback")).bundle.folder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log.sqlite"


@pytest.fixture(scope="module")
def client(bundle, path):
    worker = Worker(Recommender.load(bundle, threads=1))
    with TestClient(make_api(worker, log=FeedbackLog(path))) as opened:
        yield opened


def ask(client, name="recommend", body=HISTORY, **headers):
    answer = client.post(f"/v1/{name}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Request-Id"], answer.json()


def rows(path, query, *values):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query, values).fetchall()


def test_a_list_and_what_followed_it_are_logged_without_the_history(client, path):
    name, answer = ask(client, **{"X-Request-Id": "order-1"})
    item = answer["items"][1]["id"]
    sent = {"request_id": name, "item": item, "event": "purchase", "value": 9, "time": "2026-01-02T03:04:05+01:00"}
    assert client.post("/v1/feedback", json=sent).json() == {"accepted": 1, "duplicates": 0, "refused": []}
    assert client.post("/v1/feedback", json=sent).json() == {"accepted": 0, "duplicates": 1, "refused": []}
    ((request, who, arm, basis, items, history, label, catalogue),) = rows(
        path,
        "SELECT request, who, arm, basis, items, history, label, catalogue FROM served "
        "JOIN bundles ON bundle = bundles.id WHERE request = 'order-1'",
    )
    assert (request, arm, basis, history, label, catalogue) == ("order-1", "A", "model", None, answer["bundle"], 40)
    assert label.startswith("tiny@")
    assert [item for item, _ in json.loads(items)] == [item["id"] for item in answer["items"]]
    assert [score for _, score in json.loads(items)] == pytest.approx([item["score"] for item in answer["items"]])
    assert who.startswith("session:")
    assert "user 7" not in who
    event = rows(path, "SELECT item, event, rank, value, time FROM events WHERE item = ?", item)
    assert event == [(item, "purchase", 2, 9.0, 1767319445.0)]
    assert "histor" not in json.dumps(rows(path, "SELECT * FROM served")), "no title of the request"
    assert TITLES[0] not in path.read_bytes().decode("latin-1")


def test_many_events_at_once_and_unknown_ones_are_told(client):
    name, answer = ask(client)
    first, second = (item["id"] for item in answer["items"][:2])
    events = [
        {"request_id": name, "item": item, "event": "click"} for item in (first, f"id:{second}", first, "nothing")
    ]
    events.append({"request_id": "never served", "item": first, "event": "click"})
    told = client.post("/v1/feedback", json={"events": events}).json()
    assert (told["accepted"], told["duplicates"]) == (2, 1)
    assert [(event["index"], event["item"]) for event in told["refused"]] == [(3, "nothing"), (4, first)]
    assert "not in the list" in told["refused"][0]["reason"]
    assert "no served list" in told["refused"][1]["reason"]
    for event, words in ((events[3], "not in the list"), (events[4], "no served list")):
        answer = client.post("/v1/feedback", json=event)
        assert (answer.status_code, words in answer.json()["error"]) == (404, True)
        assert "X-Request-Id" in answer.json()["hint"]


def test_the_lists_of_a_batch_have_the_place_behind_the_id(client):
    name, answer = ask(
        client, "batch", {"histories": [TITLES[:2], ["No such title"]], "k": 3}, **{"X-User-Key": "shop"}
    )
    assert answer["bundle"].startswith("tiny@")
    sent = {"request_id": f"{name}:1", "item": answer["answers"][1][0]["id"], "event": "click"}
    assert client.post("/v1/feedback", json=sent).json()["accepted"] == 1
    assert client.post("/v1/feedback", json={**sent, "request_id": f"{name}:2"}).status_code == 404


def test_a_user_key_is_kept_as_given_and_a_client_may_name_its_requests(client, path):
    ask(client, **{"X-Request-Id": "mine", "X-User-Key": "u-42"})
    client.post(
        "/v1/feedback", json={"request_id": "mine", "item": "x", "event": "click"}
    )  # what came before is written
    assert rows(path, "SELECT who FROM served WHERE request = 'mine'") == [("user:u-42",)]
    for unusable in ("", "a" * 129, "with space", "tab\t"):
        answer = client.post("/v1/recommend", json=HISTORY, headers={"X-Request-Id": unusable})
        assert len(answer.headers["X-Request-Id"]) == 32


BODIES = [
    ({}, "request_id is missing"),
    ({"request_id": "a", "item": "b"}, "event is missing"),
    ({"request_id": "a", "item": "b", "event": "click", "events": []}, "events"),
    ({"events": [], "item": "b"}, "events"),
    ({"events": [{"request_id": "a", "item": "b", "event": "click"}], "item": "b"}, "and item beside them"),
    ({"events": [{"request_id": "a", "item": "b"}]}, "events[0].event is missing"),
    ({"request_id": "a", "item": "b", "event": "Click!"}, "event"),
    ({"request_id": "a", "item": "b", "event": "click", "value": "9"}, "value"),
    ({"request_id": "a", "item": "b", "event": "click", "time": "2026-01-02T03:04:05"}, "time"),
    ({"request_id": "a", "item": "b", "event": "click", "time": "soon"}, "time"),
    ({"request_id": "a", "item": 3, "event": "click"}, "item is a number, not a text"),
    ({"request_id": "a", "item": "b", "event": "click", "user": "c"}, "no field user"),
]


@pytest.mark.parametrize(("body", "words"), BODIES)
def test_wrong_feedback_is_refused_in_one_line(client, body, words):
    answer = client.post("/v1/feedback", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert answer.json()["hint"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_value_that_is_no_finite_number_is_refused(client, value):
    text = f'{{"request_id": "a", "item": "b", "event": "click", "value": {value}}}'
    answer = client.post("/v1/feedback", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_without_a_log_feedback_is_told_where_to_switch_it_on(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as client:
        answer = client.post("/v1/feedback", json={"request_id": "a", "item": "b", "event": "click"})
        assert (answer.status_code, "--feedback-log" in answer.json()["hint"]) == (404, True)
        assert "delrec_feedback" not in client.get("/metrics").text


@pytest.mark.parametrize(("full", "status"), [(True, 507), (False, 503)])
def test_while_the_log_fails_answers_go_out_and_feedback_is_not_acknowledged(
    bundle, tmp_path, monkeypatch, full, status
):
    worker = Worker(Recommender.load(bundle, threads=1))
    with TestClient(make_api(worker, log=FeedbackLog(tmp_path / "log.sqlite"))) as client:
        name, answer = ask(client)
        sent = {"request_id": name, "item": answer["items"][0]["id"], "event": "click"}

        def fail(*_):
            raise NotStored("a reason", full)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "write", fail)
            refused = client.post("/v1/feedback", json=sent)
            assert (refused.status_code, set(refused.json())) == (status, {"error", "hint"})
            assert int(refused.headers["Retry-After"]) > 0
            ask(client)
            assert client.post("/v1/feedback", json=sent).status_code == status
        assert client.get("/readyz").status_code == 200
        ask(client)
        text = client.get("/metrics").text
        assert 'delrec_feedback_dropped_total{reason="disk"} 2.0' in text, "the first list failed with its event"


def test_random_feedback_never_gives_a_server_error(client):
    rng = random.Random(3)
    name, answer = ask(client)
    texts = [
        "",
        "a",
        name,
        answer["items"][0]["id"],
        "click",
        "\x00",
        "\u202e",
        "é" * 40,
        "x" * 200,
        "2026-01-01T00:00Z",
    ]
    leaves = [*texts, None, True, 0, -1, 1e300, 10**30, [], {}]
    for n in range(300):
        event = {
            key: rng.choice(leaves) for key in ("request_id", "item", "event", "value", "time") if rng.random() < 0.8
        }
        event |= {"request_id": name, "event": "click"} if rng.random() < 0.5 else {}
        body = event if rng.random() < 0.6 else {"events": [event] * rng.randrange(4)}
        content = json.dumps(body).encode()
        if n % 10 == 0:
            cut = rng.randrange(len(content))
            content = content[:cut] + bytes([rng.randrange(256)]) + content[cut + 1 :]
        answered = client.post("/v1/feedback", content=content, headers={"Content-Type": "application/json"})
        assert answered.status_code in {200, 400, 404, 422}, (content, answered.text)


def test_a_killed_server_has_lost_nothing_that_it_acknowledged(tmp_path):
    path = tmp_path / "log.sqlite"
    options = ["--feedback-log", str(path), "--log-histories"]
    with Served(tmp_path, *options) as served:
        answer = served.post(HISTORY, **{"X-Request-Id": "r1"})
        sent = {"request_id": "r1", "item": answer["items"][0]["id"], "event": "click"}
        assert served.post(sent, path="feedback")["accepted"] == 1
        served.process.kill()
        served.process.wait()
    assert rows(path, "SELECT item, rank FROM events") == [(sent["item"], 1)]
    assert [json.loads(row[0]) for row in rows(path, "SELECT history FROM served")] == [TITLES[:2]]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
