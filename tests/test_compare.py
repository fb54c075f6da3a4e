"""Two bundles that share the traffic: who gets which, and that answer, log and health name it."""

import json
import signal
import sqlite3
from contextlib import closing

import pytest
from fastapi.testclient import TestClient

from delrec_lite.errors import UsageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.arms import Arms
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.serve import Settings
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle
from tests.serving import Served

HISTORY = {"history": TITLES[:2], "k": 3}
REQUESTS = 12  # the first dozen names of requests reach both bundles at the share below


def asked(client, number=REQUESTS):
    """Answers to requests of fixed names, so that which bundle answers is not left to chance."""
    named = ({"X-Request-Id": f"r{n}"} for n in range(number))
    return [client.post("/v1/recommend", json=HISTORY, headers=headers) for headers in named]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return [tiny_bundle(folder, seed=seed, name=name).bundle.folder for name, seed in (("old", 0), ("new", 9))]


@pytest.fixture
def client(bundles, tmp_path):
    workers = [Worker(Recommender.load(bundle, threads=1)) for bundle in bundles]
    arms = Arms(workers[0], workers[1], share=0.4, salt="new.delrec")
    log = FeedbackLog(tmp_path / "log.sqlite")
    with TestClient(make_api(workers[0], log=log, arms=arms)) as opened:
        opened.arms, opened.log = arms, log
        yield opened


class Nobody:
    """A worker that is never asked."""


def test_callers_are_divided_by_the_share_and_stay_where_they_are():
    arms = Arms(Nobody(), Nobody(), share=0.1, salt="b")
    callers = [f"user:{n}" for n in range(20_000)]
    chosen = [arms.of(caller).name for caller in callers]
    assert 0.09 < chosen.count("B") / len(callers) < 0.11
    assert chosen == [Arms(Nobody(), Nobody(), share=0.1, salt="b").of(caller).name for caller in callers]
    wider = [Arms(Nobody(), Nobody(), share=0.3, salt="b").of(caller).name for caller in callers]
    assert all(now == "B" for before, now in zip(chosen, wider, strict=True) if before == "B"), "a larger share adds"
    other = [Arms(Nobody(), Nobody(), share=0.1, salt="c").of(caller).name for caller in callers]
    assert sum(a == b == "B" for a, b in zip(chosen, other, strict=True)) < 400, "another comparison, other callers"
    assert {Arms(Nobody(), None).of(caller).name for caller in callers[:50]} == {"A"}


def test_a_user_and_a_session_always_get_the_same_bundle_and_others_one_by_request(client):
    def bundle_of(body, **headers):
        answer = client.post("/v1/recommend", json=body, headers=headers).json()
        return answer["bundle"].partition("@")[0]

    for n in range(6):
        session = {bundle_of({**HISTORY, "session": f"s{n}"}) for _ in range(3)}
        user = {bundle_of({**HISTORY, "session": f"s{m}"}, **{"X-User-Key": f"u{n}"}) for m in range(3)}
        assert len(session) == len(user) == 1
        assert {bundle_of(HISTORY, **{"X-Session": f"s{n}"}) for _ in range(3)} == session
    assert {bundle_of({**HISTORY, "session": f"s{n}"}) for n in range(20)} == {"old", "new"}
    assert {answer.json()["bundle"].partition("@")[0] for answer in asked(client)} == {"old", "new"}
    assert len({bundle_of(HISTORY, **{"X-Request-Id": "r1"}) for _ in range(5)}) == 1
    batches = [
        client.post("/v1/batch", json={"histories": [TITLES[:2]]}, headers={"X-Request-Id": f"r{n}"}).json()
        for n in range(REQUESTS)
    ]
    assert len({answer["bundle"] for answer in batches}) == 2


def test_each_answer_is_that_of_its_bundle_alone_and_the_log_names_it(client, bundles):
    expected = {}
    for bundle in bundles:
        with Recommender.load(bundle, threads=1) as recommender:
            expected[recommender.bundle.label] = [i.id for i in recommender.recommend(TITLES[:2], 3).items]
    answers = asked(client)
    assert {answer.json()["bundle"] for answer in answers} == set(expected)
    for answer in answers:
        assert [item["id"] for item in answer.json()["items"]] == expected[answer.json()["bundle"]]
    client.log.flush()
    with closing(sqlite3.connect(client.log._store.path)) as database:
        query = "SELECT request, label, arm FROM served JOIN bundles ON bundles.id = bundle"
        logged = {request: (label, arm) for request, label, arm in database.execute(query)}
    for answer in answers:
        label, arm = logged[answer.headers["X-Request-Id"]]
        assert (label, arm) == (answer.json()["bundle"], "B" if label.startswith("new") else "A")
    text = client.get("/metrics").text
    assert 'delrec_bundle_info{arm="B",name="new"' in text
    assert client.get("/readyz").json()["compared"] == "new"


def test_an_item_that_is_not_available_is_in_no_answer_of_either(client):
    first = [answer.json() for answer in asked(client)]
    gone = sorted({item["id"] for answer in first for item in answer["items"]})
    changed = client.post("/v1/catalog/availability", json={"unavailable": [f"id:{item}" for item in gone]})
    assert changed.status_code == 200
    answers = [answer.json() for answer in asked(client)]
    assert len({answer["bundle"] for answer in answers}) == 2
    assert not {item["id"] for answer in answers for item in answer["items"]} & set(gone)


def test_the_server_is_not_ready_when_the_compared_model_fails(client, monkeypatch):
    second = client.arms.of(next(f"s{n}" for n in range(99) if client.arms.of(f"s{n}").name == "B")).worker
    second.pulse.failures = 99
    answer = client.get("/readyz")
    assert (answer.status_code, "compared model" in answer.json()["error"]) == (503, True)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_share_is_a_part(share):
    with pytest.raises(UsageError, match="--share"):
        Settings(share=share)


def test_serve_compares_copies_of_two_bundles_and_reloads_all_and_the_keys(bundles, tmp_path):
    (tmp_path / "keys").write_text("shop: secret")
    options = ["--share", "0.5", "--workers", "2", "--api-keys", str(tmp_path / "keys")]
    key = {"Authorization": "Bearer secret", "X-Request-Id": "mine"}
    with Served(tmp_path, *options, bundle=bundles[0], DELREC_SERVE_COMPARE=str(bundles[1])) as served:
        line = served.wait_for("comparing")
        assert '"B": "new@' in line
        assert '"memory_mb"' in line
        names = {served.post({**HISTORY, "session": f"s{n}"}, **key)["bundle"].partition("@")[0] for n in range(16)}
        line = json.loads(served.wait_for("/v1/recommend"))
        assert (line["id"], line["key"]) == ("mine", "shop")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for('"bundle": "new", "created"')
        served.wait_for('"keys": "read"')
        served.wait_for('"bundle": "old", "created"')
        assert served.post(HISTORY, **key)["items"]
    assert names == {"old", "new"}
