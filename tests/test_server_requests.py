"""What the server says to requests that do not fit, to other sites, and behind the prefix of a proxy."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from delrec_lite.errors import UsageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.serve import Settings
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle

JSON = {"Content-Type": "application/json"}
HISTORY = {"history": TITLES[:2]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("requests")).bundle.folder


@pytest.fixture(scope="module")
def client(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as opened:
        yield opened


@pytest.fixture(scope="module")
def proxied(bundle):
    """A server with all settings for browsers and proxies, and a key."""
    worker = Worker(Recommender.load(bundle, threads=1))
    api = make_api(worker, key="key", root_path="/recs", cors_origins=["https://shop.example"])
    with TestClient(api) as opened:
        yield opened


BODIES = [
    (json.dumps(HISTORY), {}, 415, "the body has no Content-Type", "Content-Type: application/json"),
    (json.dumps(HISTORY), {"Content-Type": "text/plain"}, 415, "is sent as 'text/plain'", "application/json"),
    ("history=Alien", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "urlencoded", "application/json"),
    ('{"history": ["a"', JSON, 422, "the body is not JSON: Expecting ',' delimiter (character 16)", "such as {"),
    (b"\xff{}", JSON, 400, "the body is not JSON", "UTF-8"),
    ("", JSON, 422, "the body is empty", '{"history"'),
    ('["a"]', JSON, 422, "the body is a list, not an object", '{"history"'),
    ("3", JSON, 422, "the body is a number, not an object", '{"history"'),
    ('{"history": "a"}', JSON, 422, "history is a text, not a list", "brackets"),
    ('{"history": [3]}', JSON, 422, "history[0] is a number, not a text", '"id:3"'),
    ('{"history": ["a", null]}', JSON, 422, "history[1] is null, not a text", '"id:42"'),
    ('{"historie": []}', JSON, 422, "history is missing", '{"history"'),
    ('{"words": "space"}', JSON, 422, "history is missing", "it may be empty: []"),
    ('{"history": [], "words": ["space"]}', JSON, 422, "words is a list, not a text", "/docs"),
    ('{"history": ["a"], "canditates": ["b"]}', JSON, 422, "there is no field canditates", "did you mean candidates?"),
    ('{"history": ["a"], "k": "5"}', JSON, 422, "k: it should be a valid integer", "/docs"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words", "hint"), BODIES)
def test_a_body_that_does_not_fit_is_refused_in_one_line_that_says_what_to_do(
    client, body, headers, status, words, hint
):
    answer = client.post("/v1/recommend", content=body, headers=headers)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "hint"})
    assert words in answer.json()["error"]
    assert hint in answer.json()["hint"]
    assert "dictionary" not in answer.text
    assert "\n" not in answer.json()["error"] + answer.json()["hint"]


def test_the_example_in_a_hint_is_one_of_the_path(client):
    answer = client.post("/v1/batch", content="[]", headers=JSON)
    assert '{"histories": [[' in answer.json()["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words", "hint"),
    [
        ("GET", "/v1/recomend", 404, "nothing at /v1/recomend", "did you mean /v1/recommend?"),
        ("GET", "/v1/recommend", 405, "GET is not possible", "use POST"),
        ("OPTIONS", "/v1/recommend", 405, "OPTIONS is not possible", "use POST"),
    ],
)
def test_a_wrong_path_or_method_is_refused_with_the_right_one(client, method, path, status, words, hint):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert hint in answer.json()["hint"]


def test_a_fault_of_the_server_is_json_too(bundle, monkeypatch):
    monkeypatch.setattr(Recommender, "prepare", lambda *_, **__: 1 / 0)
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1))), raise_server_exceptions=False) as client:
        answer = client.post("/v1/recommend", json=HISTORY)
    assert (answer.status_code, set(answer.json())) == (500, {"error", "hint"})


def test_a_browser_of_another_site_may_ask_where_it_is_allowed(client, proxied):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    preflight = proxied.options("/v1/recommend", headers=asked)  # browsers send it without the key
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert {"authorization", "content-type"} <= set(
        preflight.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
    )
    for headers, status in (({"Authorization": "Bearer key"}, 200), ({}, 401)):
        answer = proxied.post("/v1/recommend", json=HISTORY, headers={"Origin": "https://shop.example", **headers})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"  # else a page cannot read why
    other = {**asked, "Origin": "https://other.example"}
    assert "Access-Control-Allow-Origin" not in proxied.options("/v1/recommend", headers=other).headers
    assert "Access-Control-Allow-Origin" not in client.options("/v1/recommend", headers=asked).headers


@pytest.mark.parametrize("prefix", ["", "/recs"])
def test_a_prefix_is_answered_whether_or_not_the_proxy_removed_it(proxied, prefix):
    headers = {"Authorization": "Bearer key"}
    assert proxied.post(f"{prefix}/v1/recommend", json=HISTORY, headers=headers).status_code == 200
    assert proxied.post(f"{prefix}/v1/recommend", json=HISTORY).status_code == 401
    assert proxied.get(f"{prefix}/metrics").status_code == 401
    for path in ("/", "/readyz", "/docs", "/openapi.json"):
        assert proxied.get(f"{prefix}{path}").status_code == 200
    assert 'path="/v1/recommend",status="200"' in proxied.get(f"{prefix}/metrics", headers=headers).text


def test_a_prefix_appears_in_the_documentation_and_without_its_slash_leads_to_the_page(proxied):
    assert proxied.get("/openapi.json").json()["servers"] == [{"url": "/recs"}]
    assert "/recs/openapi.json" in proxied.get("/recs/docs").text
    moved = proxied.get("/recs", follow_redirects=False)
    assert (moved.status_code, moved.headers["Location"]) == (307, "http://testserver/recs/")
    assert proxied.get("/recsother", headers={"Authorization": "Bearer key"}).status_code == 404


def test_the_page_calls_paths_relative_to_its_own(client):
    calls = re.findall(r"""(?:call|fetch)\(\s*["'`]([^"'`]*)""", client.get("/").text)
    assert len(calls) >= 5
    assert not [path for path in calls if path.startswith("/") or ":" in path]


@pytest.mark.parametrize(
    ("given", "root"), [("", ""), ("/", ""), ("recs", "/recs"), ("/recs/", "/recs"), ("/a/b", "/a/b")]
)
def test_a_root_path_is_written_with_one_slash_before_it(given, root):
    assert Settings(root_path=given).root_path == root


def test_a_root_path_or_origin_that_cannot_be_one_is_refused():
    for root in ("/a?b", "/a b", "/%20"):
        with pytest.raises(UsageError, match="--root-path"):
            Settings(root_path=root)
    for origin in ("shop.example", "https://shop.example/", "https://shop.example/a", "ftp://a", "https://"):
        with pytest.raises(UsageError, match="--cors-origin"):
            Settings(cors_origins=(origin,))
    assert Settings(cors_origins=("*", "http://localhost:3000")).cors_origins
