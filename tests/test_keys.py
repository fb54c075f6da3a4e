"""Keys in a file, and limits on what each of them may send."""

import hashlib
import json
import os

import pytest
from fastapi.testclient import TestClient

from delrec_lite.errors import UsageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server import rates
from delrec_lite.server.api import make_api
from delrec_lite.server.keys import Keys, read_keys
from delrec_lite.server.rates import RateLimit
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle

SHOP, PARTNER = "shop-key-1234567890", "partner-key-abcdefgh"
HISTORY = {"history": TITLES[:2]}


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of our callers\n\nshop: {SHOP}\npartner: sha256:{sha256(PARTNER).upper()}\n")
    return path


def replace(path, text):
    """As a user or a secret store does: a new file in the place of the old one."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_key_names_its_caller(path):
    keys = Keys({"SHOP_KEY": "from-the-environment"}, path)
    sent = {SHOP: "shop", PARTNER: "partner", "from-the-environment": "SHOP_KEY", sha256(PARTNER): None, "": None}
    for key, name in sent.items():
        assert keys.name_of(b"Bearer " + key.encode()) == name
        assert keys.name_of(b"bearer  " + key.encode() + b" ") == name
        assert keys.name_of(b"Basic " + key.encode()) is None
    assert SHOP.encode() not in str(vars(keys)).encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("# nothing\n", "holds no keys"),
        (f"shop {SHOP}", "line 1, is no key"),
        (f"shop: {SHOP}\n: {PARTNER}", "line 2, is no key"),
        ("shop:", "line 1, is no key"),
        ("shop: two words", "line 1, is no key"),
        ("shop: schlüssel", "line 1, is no key"),
        (f"the shop: {SHOP}", "line 1, is no key"),
        ("shop: sha256:abc", "has not 64 hexadecimal digits"),
        (f"shop: {SHOP}\nother: sha256:{sha256(SHOP)}", "line 2: other has the key of shop"),
        ("x" * 2_000_000, "has over"),
    ],
)
def test_a_file_with_rubbish_is_one_clear_error_without_the_key(tmp_path, text, words):
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_keys(path)
    assert words in raised.value.message
    assert raised.value.hint
    for secret in (SHOP, PARTNER, "schlüssel"):
        assert secret not in raised.value.message + raised.value.hint


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            Keys(path=path)
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match="it is no text"):
        Keys(path=tmp_path / "binary")


def test_keys_are_replaced_while_the_server_runs(path, caplog):
    keys = Keys(path=path)
    with caplog.at_level("INFO", "delrec_lite.server"):
        replace(path, f"shop: {SHOP}\nshop: the-next-key\n")  # both, until every caller has the new one
        assert [keys.name_of(b"Bearer " + key) for key in (SHOP.encode(), b"the-next-key")] == ["shop", "shop"]
        assert keys.name_of(b"Bearer " + PARTNER.encode()) is None
        for broken in ("shop SHOP", ""):
            replace(path, broken)
            assert keys.name_of(b"Bearer the-next-key") == "shop"
        path.unlink()
        assert keys.name_of(b"Bearer the-next-key") == "shop"
        path.write_text("shop: the-next-key\n")
        assert keys.name_of(b"Bearer " + SHOP.encode()) is None
        facts = path.stat()
        path.write_text("shop: the-last-key\n")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as if nothing had changed
        keys.reload()
        assert keys.name_of(b"Bearer the-last-key") == "shop"
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["keys"] for line in lines] == ["read", "refused", "refused", "refused", "read", "read"]
    assert all(line["hint"] for line in lines if line["keys"] == "refused")
    assert "the-next-key" not in caplog.text


@pytest.mark.parametrize("rate", ["", "20", "0/s", "-1/s", "20/d", "20/s/s", "1e3/s", "20 per s", "٣/s"])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UsageError, match="--rate is"):
        RateLimit(rate)
    with pytest.raises(UsageError, match="--burst is 0"):
        RateLimit("20/s", 0)


def test_a_caller_gets_its_rate_and_a_burst():
    now = [100.0]
    limit = RateLimit("120/m", 3, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait("b") == 0
    now[0] += 0.25
    assert limit.wait("a") == pytest.approx(0.25)
    now[0] += 0.25
    assert limit.wait("a") == 0
    now[0] += 3600
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    granted = 0
    for _ in range(1000):
        now[0] += 0.1
        granted += limit.wait("a") == 0
    assert 199 <= granted <= 201  # 100 seconds at 2 a second


def test_the_callers_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(rates, "MOST_CALLERS", 100)
    limit = RateLimit("1/h")
    for n in range(1000):
        limit.wait(str(n))
    assert len(limit) == 100
    assert limit.wait("999") > 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("keys")).bundle.folder


def test_a_server_with_keys_and_a_rate(bundle, path, caplog):
    api = make_api(Worker(Recommender.load(bundle, threads=1)), Keys(path=path), limit=RateLimit("2/h"))
    with TestClient(api) as client, caplog.at_level("INFO", "delrec_lite.server"):
        missing = client.post("/v1/recommend", json=HISTORY)
        assert (missing.status_code, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Bearer KEY" in missing.json()["hint"]
        wrong = client.post("/v1/recommend", json=HISTORY, headers=bearer("wrong"))
        assert (wrong.status_code, "not one of them" in wrong.json()["hint"]) == (401, True)
        metrics = client.get("/metrics")
        assert (metrics.status_code, "credentials_file" in metrics.json()["hint"]) == (401, True)
        for _ in range(2):
            assert client.post("/v1/recommend", json=HISTORY, headers=bearer(SHOP)).status_code == 200
        refused = client.post("/v1/recommend", json=HISTORY, headers=bearer(SHOP))
        assert refused.status_code == 429
        assert 1700 < int(refused.headers["Retry-After"]) <= 1800
        assert set(refused.json()) == {"error", "hint"}
        assert client.post("/v1/recommend", json=HISTORY, headers=bearer(PARTNER)).status_code == 200
        for free in ("/healthz", "/readyz", "/", "/metrics"):  # not limited
            assert [client.get(free, headers=bearer(SHOP)).status_code for _ in range(3)] == [200] * 3
    lines = [json.loads(record.message) for record in caplog.records]
    names = [line.get("key") for line in lines if line["path"] == "/v1/recommend"]
    assert names == [None, None, "shop", "shop", "shop", "partner"]
    assert SHOP not in caplog.text


def test_without_keys_each_address_has_its_rate(bundle):
    api = make_api(Worker(Recommender.load(bundle, threads=1)), limit=RateLimit("1/h"))
    with TestClient(api, client=("10.0.0.1", 1)) as one:
        other = TestClient(api, client=("10.0.0.2", 1))
        assert [one.get("/v1/items").status_code for _ in range(2)] == [200, 429]
        assert other.get("/v1/items").status_code == 200


def test_a_session_in_a_header(bundle):
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)))) as client:

        def computed(history, header=None, body=None):
            headers = {} if header is None else {"X-Session": header}
            fields = {} if body is None else {"session": body}
            answer = client.post("/v1/recommend", json={"history": history, **fields}, headers=headers)
            return answer.json()["tokens_computed"]

        assert computed(TITLES[:3], header="u") == 3
        assert computed(TITLES[:4], header="u") == 1
        assert computed(TITLES[:5], body="u") == 1
        assert computed(TITLES[:5], header="u", body="other") == 5  # the body counts
        assert computed(TITLES[:6], header="") == 6
        long = client.post("/v1/recommend", json=HISTORY, headers={"X-Session": "x" * 129})
        assert (long.status_code, "x-session" in long.json()["error"]) == (422, True)
