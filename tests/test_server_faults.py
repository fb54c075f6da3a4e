"""What goes wrong around a server: killed, told to stop, left by its callers, nowhere to write."""

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


def waiting(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return float(re.search(r"^delrec_waiting (\S+)", answer.read().decode(), re.MULTILINE)[1])


def readable(connection):
    """Whether an answer comes; a caller whose request had not been read yet is hung up on."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kill_9_loses_nothing(tmp_path):
    with Served(tmp_path) as served:
        before, hashes = served.post({"history": TITLES[:2]})["items"], digests(served.bundle)
        callers = [send(served.port, request("/v1/recommend", BODY)) for _ in range(8)]
        served.process.kill()
        served.process.wait()
        for caller in callers:
            caller.close()
    assert digests(served.bundle) == hashes
    with Served(tmp_path, bundle=served.bundle) as again:
        assert again.post({"history": TITLES[:2]})["items"] == before


def test_what_is_in_flight_is_answered_before_it_stops(tmp_path):
    many = json.dumps({"histories": [TITLES[n % 30 : n % 30 + 10] for n in range(400)], "k": 5}).encode()
    with Served(tmp_path, "--deadline", "120") as served:
        callers = [send(served.port, request("/v1/batch", many)) for _ in range(6)]
        until(lambda: waiting(served.port) >= 2, 30)  # one is being answered, others wait for their turn
        served.process.send_signal(signal.SIGTERM)
        answered = [status(caller) for caller in callers if readable(caller)]
        served.process.wait(60)
    assert len(answered) >= 3
    assert set(answered) == {200}


@pytest.fixture
def blocked(tmp_path):
    """A real server whose one worker is kept busy until ``go``; its queue has two places."""
    worker = Worker(Recommender.load(tiny_bundle(tmp_path).bundle.folder, threads=1), waiting=2)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_api(worker), log_level="warning"))
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    worker.go, begun = threading.Event(), threading.Event()
    worker.ask(lambda _: (begun.set(), worker.go.wait(30)))
    worker.port = listening.getsockname()[1]
    begun.wait(10)
    yield worker
    worker.go.set()
    server.should_exit = True
    running.join()


def test_a_caller_who_has_gone_gives_the_place_back(blocked):
    gone = [send(blocked.port, request("/v1/recommend", BODY)) for _ in range(2)]
    until(lambda: blocked.waiting() == 2, 30)
    refused = send(blocked.port, request("/v1/recommend", BODY))
    assert status(refused) == 503
    for caller in gone:
        caller.close()
    until(lambda: blocked.waiting() == 0, 30)
    patient = [send(blocked.port, request("/v1/recommend", BODY)) for _ in range(2)]
    until(lambda: blocked.waiting() == 2, 30)
    blocked.go.set()
    assert [status(caller) for caller in patient] == [200, 200]
    with urllib.request.urlopen(f"http://127.0.0.1:{blocked.port}/metrics") as answer:
        text = answer.read().decode()
    assert 'path="/v1/recommend",status="499"} 2.0' in text
    assert "delrec_tokens_computed_total 4.0" in text  # two requests of two items: nothing was done for those gone


def test_a_slow_caller_holds_up_nobody_and_is_told_so(blocked, monkeypatch):
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


def test_it_serves_where_nothing_can_be_written(tmp_path, monkeypatch):
    """Bundle, cache, home and working folder read-only, and a full disk under the log."""
    bundle = tiny_bundle(tmp_path).bundle.folder
    home = tmp_path / "home"
    home.mkdir()
    for folder in (bundle, home):
        folder.chmod(0o500)
    monkeypatch.chdir(home)
    places = {"HOME": str(home), "DELREC_CACHE": str(home / "cache")}
    with Served(tmp_path, bundle=bundle, preexec=without_privileges, **places) as served:
        assert served.post({"history": TITLES[:2]})["items"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Path("/dev/full").open("w") as full:
        server = subprocess.Popen([PROGRAM, "serve", bundle, "--port", str(port), "--threads", "1"], stderr=full)
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
        assert status(send(port, request("/v1/recommend", BODY))) == 200
    finally:
        server.kill()
        server.wait()


def test_a_file_that_cannot_grow_leaves_the_old_bundle(tmp_path):
    """A disk that is full in the middle of writing, as the system's own limit on files makes it."""
    bundle = tiny_bundle(tmp_path).bundle.folder
    items, hashes = tmp_path / "new.csv", digests(bundle)
    items.write_text("item_id,title\nx1,Purple Cactus (1999)\n")
    done = subprocess.run(
        [PROGRAM, "catalog", "add", bundle, items],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 8, done.stderr
    assert "free space" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert digests(bundle) == hashes
    assert sorted(file.name for file in tmp_path.iterdir()) == [items.name, bundle.name]


def test_a_full_disk_under_the_answer_is_one_line(tmp_path):
    bundle = tiny_bundle(tmp_path).bundle.folder
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [PROGRAM, "recommend", bundle, "--history", TITLES[0]], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 8
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
