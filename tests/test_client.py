"""The client: it knows what the OpenAPI document knows, answers as the server does, and sends again what may be."""

import asyncio
import dataclasses
import inspect
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import get_type_hints
from unittest.mock import MagicMock

import httpx2
import numpy as np
import pytest

from delrec_lite.client import (
    AsyncClient,
    BusyError,
    Client,
    LateError,
    RefusedError,
    Retries,
    UnreachableError,
    answers,
    calls,
)
from delrec_lite.errors import UsageError
from delrec_lite.server.api import make_api
from tests.bundles import TITLES
from tests.serving import Served

# Fields that are arguments of a method; all others are its options.
BODIES = {
    "/v1/recommend": (calls.RecommendOptions, {"history"}),
    "/v1/batch": (calls.BatchOptions, {"histories"}),
    "/v1/explain": (calls.ExplainOptions, {"history"}),
    "/v1/teacher": (calls.TeacherOptions, {"history"}),
    "/v1/feedback": (calls.FeedbackOptions, set()),
    "/v1/catalog/availability": (calls.AvailabilityOptions, set()),
}
PLAIN = {"integer": int, "number": float, "string": str, "boolean": bool}


@pytest.fixture(scope="module")
def document():
    return make_api(MagicMock()).openapi()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("client"), "--api-key-env", "SHOP_KEY", SHOP_KEY="ключ 1") as server:
        yield server


@pytest.fixture
def client(served):
    with Client(served.address, key="ключ 1") as client:
        yield client


def test_every_path_is_a_method_of_both_clients(document):
    paths = {path for path in document["paths"] if path.startswith("/v1/")}
    assert {path for path in paths if "post" in document["paths"][path]} == BODIES.keys()
    for path in paths:
        name = path.rpartition("/")[2]
        assert inspect.isfunction(getattr(Client, name, None)), f"the client has no {name} for {path}"
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            both = [list(inspect.signature(f).parameters.values()) for f in (method, getattr(AsyncClient, name))]
            assert both[0] == both[1], name


@pytest.mark.parametrize("path", BODIES)
def test_the_fields_of_a_body_are_the_options(document, path):
    options, arguments = BODIES[path]
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = set(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"])
    known = arguments | options.__annotations__.keys()
    assert fields == known, f"{options.__name__} of client/calls.py: {sorted(fields ^ known)}"


def of_schema(schema):
    """The Python type that a schema stands for."""
    if "$ref" in schema:
        return getattr(answers, schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        kinds = [None if option.get("type") == "null" else of_schema(option) for option in schema["anyOf"]]
        return kinds[0] | kinds[1]
    if schema["type"] == "array":
        return list[of_schema(schema["items"])]
    return dict[str, of_schema(schema["additionalProperties"])] if schema["type"] == "object" else PLAIN[schema["type"]]


def answer_schemas(document):
    """Names of the schemas in the answers of all paths with a method."""
    found, texts = set(), []
    for path, operations in document["paths"].items():
        texts += [json.dumps(o["responses"]["200"]) for o in operations.values() if path.startswith("/v1/")]
    while texts:
        text = texts.pop()
        for name, schema in document["components"]["schemas"].items():
            if f'schemas/{name}"' in text and name not in found:
                found.add(name)
                texts.append(json.dumps(schema))
    return found


def test_the_fields_of_the_answers_are_those_of_the_document(document):
    names = answer_schemas(document)
    kinds = {name for name, kind in vars(answers).items() if dataclasses.is_dataclass(kind)}
    assert names == kinds
    for name in names:
        properties = document["components"]["schemas"][name]["properties"]
        expected = {field: of_schema(schema) for field, schema in properties.items()}
        assert get_type_hints(getattr(answers, name)) == expected, f"{name} of client/answers.py"


def test_the_answers_are_the_servers(served, client):
    history = ["red river", "Blue Garden (1965)"]
    answer = client.recommend(history, k=3)
    assert [item.rank for item in answer.items] == [1, 2, 3]
    plain = served.post({"history": history, "k": 3}, Authorization="Bearer ключ 1".encode())
    assert [dataclasses.asdict(item) for item in answer.items] == plain["items"]
    assert answer.matched[0].title == TITLES[0]
    assert client.recommend(["no such thing"]).skipped[0].given == "no such thing"
    batch = client.batch([history, ["id:i3"]], candidates=[TITLES[5:8], None], exclude=[[], ["id:i4", "id:i5"]], k=40)
    assert [len(ranking) for ranking in batch.answers] == [3, 37]
    assert client.explain(history, item=answer.items[0].title).contributions[0].title == TITLES[0]
    assert client.items("red rivr", limit=1)[0].title == TITLES[0]
    assert client.ready()["status"] == "ready"
    with pytest.raises(RefusedError, match="teacher"):
        client.teacher(history)


def test_the_async_client_gives_the_same_answers(served, client):
    histories = [TITLES[n : n + 3] for n in range(6)]

    async def ask():
        async with AsyncClient(served.address, key="ключ 1") as several:
            together = await asyncio.gather(*(several.recommend(history) for history in histories))
            found = await several.items("red rivr", limit=1)
            return together, found, await several.batch(histories), await several.explain(histories[0])

    together, found, batch, explanation = asyncio.run(ask())
    alone = [client.recommend(history).items for history in histories]
    for answer, items in zip(together, alone, strict=True):
        assert [item.id for item in answer.items] == [item.id for item in items]
        # Answered together with others, a score may differ in its last bits.
        assert [item.score for item in answer.items] == pytest.approx([item.score for item in items], abs=1e-5)
    assert [[item.id for item in ranking] for ranking in batch.answers] == [[item.id for item in r] for r in alone]
    assert found == client.items("red rivr", limit=1)
    assert explanation.id == client.explain(histories[0]).id


def test_items_are_taken_out_and_put_back_and_filters_are_sent(client):
    first = client.recommend(TITLES[:2], k=1, diversity=0.2, popularity_discount=0.1).items[0]
    assert client.availability(unavailable=["id:" + first.id, "nothing"]).skipped[0].given == "nothing"
    assert [item.id for item in client.unavailable().unavailable] == [first.id]
    assert client.recommend(TITLES[:2], k=1).items[0].id != first.id
    assert client.availability(available=["id:" + first.id]).count == 0
    assert client.columns() == []
    with pytest.raises(RefusedError, match="colour"):
        client.recommend(TITLES[:2], where="colour = 1")


def test_feedback_is_an_event_or_several(client):
    event = {"request_id": "r", "item": "i1", "event": "click", "value": np.float32(2.5)}
    with pytest.raises(RefusedError, match="no feedback is logged"):
        client.feedback(**event)
    assert calls.feedback({"events": iter([event])}).body == {"events": [event]}
    script = Script((200, {"accepted": 1, "duplicates": 0, "refused": []}, {}))
    with Client("http://shop.example", transport=httpx2.MockTransport(script)) as other:
        assert other.feedback(events=(event,)).accepted == 1
    assert json.loads(script.requests[0].content)["events"][0]["value"] == 2.5


def test_a_session_is_kept_between_calls(served):
    with Client(served.address, key="ключ 1", session="user 7") as client:
        client.recommend(TITLES[:3])
        assert client.recommend(TITLES[:4]).tokens_computed == 1
        assert client.recommend(TITLES[:4], session="another").tokens_computed == 4


def test_histories_of_any_kind_and_numbers_as_ids():
    call = calls.recommend(np.array(["a", "b"]), {"exclude": iter([7, np.int64(8), "id:9"])}, None)
    assert call.body == {"history": ["a", "b"], "exclude": ["id:7", "id:8", "id:9"]}
    assert calls.batch(([n] for n in range(2)), {}).body == {"histories": [["id:0"], ["id:1"]]}
    for wrong in ("Toy Story", b"x", None, 7, [1.5], [None], [True], [["a"]]):
        with pytest.raises(UsageError, match="history"):
            calls.recommend(wrong, {}, None)


def test_errors_are_the_servers_words(served, client):
    with pytest.raises(RefusedError, match="no field colour") as raised:
        client.recommend(TITLES[:2], colour="red")
    assert (raised.value.status, raised.value.hint) == (422, raised.value.hint)
    assert "exclude" in raised.value.hint
    with pytest.raises(RefusedError, match="requires a key") as raised, Client(served.address) as other:
        other.recommend(TITLES[:2])
    assert raised.value.status == 401
    with pytest.raises(UsageError, match="cannot be sent"):
        client.recommend(TITLES[:2], k=object())
    assert len(client.recommend(TITLES[:2], k=np.int64(4), allow_new=np.bool_(False)).items) == 4
    with pytest.raises(RefusedError):  # half of a character: JSON can say it, a title cannot be it
        client.recommend(["\ud800"], on_unknown="refuse")


@pytest.mark.parametrize("address", ["localhost:8080", "", "ftp://x", "http://", None, "http://a:99999", "http://[::1"])
def test_a_wrong_address_is_one_clear_error(address):
    with pytest.raises(UsageError, match="the server's address is"):
        Client(address)


@pytest.mark.parametrize("key", ["", " ", "a\r\nX-Other: b"])
def test_a_key_that_no_header_can_hold_is_refused(key):
    with pytest.raises(UsageError, match="the key is empty or"):
        Client("http://127.0.0.1:1", key=key)


GOOD = {"kinds": ["sasrec"], "items": [], "skipped": []}
BUSY = {"error": "too many requests are waiting", "hint": "try again in a moment"}


class Script:
    """A server that answers with these, one after the other; an exception breaks the connection."""

    def __init__(self, *script):
        self.script, self.requests = list(script), []

    def __call__(self, request):
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        status, told, headers = step
        return httpx2.Response(status, headers=headers, content=told if isinstance(told, bytes) else json.dumps(told))


@pytest.fixture
def waits(monkeypatch):
    """Notes the pauses instead of making them."""
    noted = []

    async def pause(seconds):
        noted.append(seconds)

    monkeypatch.setattr(time, "sleep", noted.append)
    monkeypatch.setattr(asyncio, "sleep", pause)
    return noted


@pytest.fixture(params=[Client, AsyncClient])
def ask(request):
    """Asks a scripted server with either client."""

    def ask(script, **settings):
        client = request.param("http://shop.example/recs/", transport=httpx2.MockTransport(script), **settings)
        answer = client.teacher(["a"])
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer

    return ask


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again_when_it_says_so(ask, waits, status):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)
    script = Script(
        *((status, BUSY, {"Retry-After": "2"}), (status, BUSY, {"Retry-After": later}), (status, BUSY, {})),
        (200, GOOD, {}),
    )
    assert ask(script).kinds == ["sasrec"]
    assert {str(request.url) for request in script.requests} == {"http://shop.example/recs/v1/teacher"}
    assert len({request.content for request in script.requests}) == 1
    assert waits[0] == 2
    assert 3 < waits[1] <= 5
    assert 0.5 <= waits[2] <= 1  # without a time: twice the pause before


def test_the_attempts_and_the_wait_are_bounded(ask, waits):
    with pytest.raises(BusyError, match="too many requests") as raised:
        ask(Script(*[(503, BUSY, {"Retry-After": "1"})] * 9), retries=Retries(attempts=3))
    assert (len(waits), raised.value.status, raised.value.retry_after) == (2, 503, 1)
    assert raised.value.hint == BUSY["hint"]
    with pytest.raises(BusyError):
        ask(Script((503, BUSY, {"Retry-After": "3600"})))
    assert len(waits) == 2
    for wrong in ({"attempts": 0}, {"first": -1}, {"first": 20}):
        with pytest.raises(UsageError):
            Retries(**wrong)


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "", "-1"])
def test_an_odd_retry_after_is_no_reason_to_fail_or_to_wait(ask, waits, value):
    ask(Script((503, BUSY, {"Retry-After": value}), (200, GOOD, {})))
    assert 0 < waits[0] <= 0.25


def test_a_lost_connection_is_tried_again_and_a_wrong_request_is_not(ask, waits):
    broken = (httpx2.ConnectError("refused"), httpx2.RemoteProtocolError("closed"), httpx2.ConnectTimeout("slow"))
    assert ask(Script(*broken, (200, GOOD, {}))).items == []
    assert len(waits) == 3
    with pytest.raises(UnreachableError, match="http://shop.example/recs/ cannot be reached: refused"):
        ask(Script(*[httpx2.ConnectError("refused")] * 4))
    waits.clear()
    with pytest.raises(LateError, match="gave no answer in time"):  # it may still be at work
        ask(Script(httpx2.ReadTimeout("slow")))
    for status in (400, 401, 413, 422, 500, 504):
        with pytest.raises(RefusedError, match="too many"):
            ask(Script((status, BUSY, {})))
    assert waits == []


@pytest.mark.parametrize(
    "answer",
    [
        (502, b"<html>bad gateway</html>", {}),
        (404, [], {}),
        (301, b"", {"Location": "https://x"}),
        (200, b"<html>", {}),
        (200, [], {}),
        (200, {"kinds": []}, {}),
        (200, {"kinds": "x", "items": [], "skipped": []}, {}),
        (200, GOOD | {"items": [7]}, {}),
        (200, b"\xff", {}),
    ],
)
def test_an_answer_of_something_else_is_one_clear_error(ask, answer):
    with pytest.raises(RefusedError, match=r"status \d+ and is not delrec-lite's") as raised:
        ask(Script(answer))
    assert raised.value.status == answer[0]
    assert "check the address" in raised.value.hint


def test_a_newer_servers_fields_are_left_out(ask):
    assert ask(Script((200, GOOD | {"colour": "red"}, {}))) == answers.TeacherAnswer(["sasrec"], [], [])


def test_importing_the_client_loads_no_heavy_package():
    code = (
        "import sys, delrec_lite.client\n"
        "print([m for m in ('numpy', 'fastapi', 'pydantic', 'rich', 'typer', 'tokenizers') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_without_httpx2_the_line_that_installs_it_is_named():
    code = "import sys; sys.modules['httpx2'] = None; import delrec_lite.client"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the client needs httpx2" in process.stderr
