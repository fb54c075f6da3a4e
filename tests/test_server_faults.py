"""Faults around a server: it is killed or stopped, callers disconnect or are slow, and nothing can be written."""

import hashlib
import json
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import uvicorn

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server import guard
from delrec_lite.server.api import make_api
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle
from tests.serving import PROGRAM, Served
from tests.unprivileged import without_privileges

BODY = json.dumps({"history": TITLES[:2]}).encode()


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def request(path, body, length=None):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def send(port, text):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(text)
    return connection


def status(connection):
    return int(re.match(rb"HTTP/1.1 (\d+)", connection.recv(65536))[1])


def count_waiting(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return float(re.search(r"^delrec_waiting (\S+)", answer.read().decode(), re.MULTILINE)[1])


def readable(connection):
    """Whether an answer comes; the server closes connections whose request it has not read."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_server_leaves_its_bundle_intact(tmp_path):
    with Served(tmp_path) as served:
        before, hashes = served.post({"history": TITLES[:2]})["items"], digests(served.bundle)
        callers = [send(served.port, request("/v1/recommend", BODY)) for _ in range(8)]
        served.process.kill()
        served.process.wait()
        for caller in callers:
            caller.close()
    assert digests(served.bundle) == hashes
    with Served(tmp_path, bundle=served.bundle) as restarted:
        assert restarted.post({"history": TITLES[:2]})["items"] == before


def test_requests_in_progress_are_answered_before_the_server_stops(tmp_path):
    batch = json.dumps({"histories": [TITLES[n % 30 : n % 30 + 10] for n in range(400)], "k": 5}).encode()
    with Served(tmp_path, "--deadline", "120") as served:
        callers = [send(served.port, request("/v1/batch", batch)) for _ in range(6)]
        wait_until(lambda: count_waiting(served.port) >= 2, 30)  # one is being answered, the others wait
        served.process.send_signal(signal.SIGTERM)
        statuses = [status(caller) for caller in callers if readable(caller)]
        served.process.wait(60)
    assert len(statuses) >= 3
    assert set(statuses) == {200}


@pytest.fixture
def blocked(tmp_path):
    """A server whose worker is busy until ``go`` is set; its queue has two places."""
    worker = Worker(Recommender.load(tiny_bundle(tmp_path).bundle.folder, threads=1), waiting=2)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_api(worker), log_level="warning"))
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    worker.go, started = threading.Event(), threading.Event()
    worker.ask(lambda _: (started.set(), worker.go.wait(30)))
    worker.port = listening.getsockname()[1]
    started.wait(10)
    yield worker
    worker.go.set()
    server.should_exit = True
    running.join()


def test_a_closed_connection_frees_its_place_in_the_queue(blocked):
    abandoned = [send(blocked.port, request("/v1/recommend", BODY)) for _ in range(2)]
    wait_until(lambda: blocked.waiting() == 2, 30)
    refused = send(blocked.port, request("/v1/recommend", BODY))
    assert status(refused) == 503
    for caller in abandoned:
        caller.close()
    wait_until(lambda: blocked.waiting() == 0, 30)
    remaining = [send(blocked.port, request("/v1/recommend", BODY)) for _ in range(2)]
    wait_until(lambda: blocked.waiting() == 2, 30)
    blocked.go.set()
    assert [status(caller) for caller in remaining] == [200, 200]
    with urllib.request.urlopen(f"http://127.0.0.1:{blocked.port}/metrics") as answer:
        text = answer.read().decode()
    assert 'path="/v1/recommend",status="499"} 2.0' in text
    assert "delrec_tokens_computed_total 4.0" in text  # nothing for closed connections


def test_a_slow_caller_gets_408_and_delays_nobody(blocked, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 1.0)
    blocked.go.set()
    slow = send(blocked.port, request("/v1/recommend", BODY[:10], len(BODY)))
    quick = send(blocked.port, request("/v1/recommend", BODY))
    assert status(quick) == 200
    assert status(slow) == 408


def test_keys_and_histories_stay_out_of_the_log(tmp_path):
    body = {"history": TITLES[:2]}
    with Served(tmp_path, "--api-key-env", "SHOP", SHOP="key-to-the-shop") as served:
        assert served.address.startswith("http://127.0.0.1:")
        served.post(body, Authorization="Bearer key-to-the-shop")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            served.post(body, Authorization="Bearer some-other-key")
    log = served.log.read_text()
    assert not [word for word in ("key-to-the-shop", "some-other-key", TITLES[0]) if word in log]
    with Served(tmp_path, "--log-histories", bundle=served.bundle) as served:
        served.post(body)
        line = json.loads(served.wait_for("/v1/recommend"))
    assert json.loads(line["body"]) == body


def test_a_server_answers_where_nothing_can_be_written(tmp_path, monkeypatch):
    """Bundle, cache, home and working folder are read-only, and the disk of the log is full."""
    bundle = tiny_bundle(tmp_path).bundle.folder
    home = tmp_path / "home"
    home.mkdir()
    for folder in (bundle, home):
        folder.chmod(0o500)
    monkeypatch.chdir(home)
    environment = {"HOME": str(home), "DELREC_CACHE": str(home / "cache")}
    with Served(tmp_path, bundle=bundle, preexec=without_privileges, **environment) as served:
        assert served.post({"history": TITLES[:2]})["items"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Path("/dev/full").open("w") as full:
        server = subprocess.Popen([PROGRAM, "serve", bundle, "--port", str(port), "--threads", "1"], stderr=full)
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
        assert status(send(port, request("/v1/recommend", BODY))) == 200
    finally:
        server.kill()
        server.wait()


def test_a_full_disk_leaves_the_old_bundle(tmp_path):
    """The limit on file sizes stops a write in the middle, as a full disk does."""
    bundle = tiny_bundle(tmp_path).bundle.folder
    items, hashes = tmp_path / "new.csv", digests(bundle)
    items.write_text("item_id,title\nx1,Purple Cactus (1999)\n")
    process = subprocess.run(
        [PROGRAM, "catalog", "add", bundle, items],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert process.returncode == 8, process.stderr
    assert "free space" in process.stderr
    assert len(process.stderr.splitlines()) == 2
    assert digests(bundle) == hashes
    assert sorted(file.name for file in tmp_path.iterdir()) == [items.name, bundle.name]


def test_an_answer_that_cannot_be_written_is_one_clear_error(tmp_path):
    bundle = tiny_bundle(tmp_path).bundle.folder
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [PROGRAM, "recommend", bundle, "--history", TITLES[0]], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 8
    assert "no space left" in process.stderr
    assert "Traceback" not in process.stderr
