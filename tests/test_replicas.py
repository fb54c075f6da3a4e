"""Several servers behind one address: docs/deploy/nginx.conf with the real nginx, if there is one, and Ray Serve."""

import re
import shutil
import socket
import subprocess
import time
import urllib.error
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from delrec_lite.client import Client, RefusedError
from delrec_lite.ray_cluster import join_cluster
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES, tiny_bundle
from tests.serving import Served

CONFIGURATION = Path(__file__).parents[1] / "docs" / "deploy" / "nginx.conf"
# What /etc/nginx/nginx.conf is on a machine.
MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    {temporary}
    include {folder}/delrec.conf;
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SESSIONS = [f"user {n}" for n in range(24)]


class Proxy(Served):
    """nginx before two servers, by the file of docs/deploy with other ports; asked like a server."""

    def __init__(self, folder, servers):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        text = CONFIGURATION.read_text()
        for given, port in {"127.0.0.1:8081": servers[0].port, "127.0.0.1:8082": servers[1].port}.items():
            assert text.count(given) == 1
            text = text.replace(given, f"127.0.0.1:{port}")
        (folder / "delrec.conf").write_text(text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};"))
        paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, temporary=paths))
        self.address, self.context = f"http://127.0.0.1:{self.port}", None
        command = [nginx(), "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        self.process = subprocess.Popen(command)
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def nginx():
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") or pytest.skip("no nginx here")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    nginx()
    folder = tmp_path_factory.mktemp("replicas")
    bundle = tiny_bundle(folder).bundle.folder
    with ExitStack() as stack:
        servers = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            servers.append(stack.enter_context(Served(folder / name, bundle=bundle)))
        yield stack.enter_context(Proxy(folder, servers)), servers


def counts(servers):
    """Recommendations that each server has logged."""
    return [len(re.findall(r'"path": "/v1/recommend"', server.log.read_text())) for server in servers]


def who_answers(servers, ask):
    """The index of the server that answers; the log is written after the answer is sent."""
    before = counts(servers)
    ask()
    for _ in range(200):
        more = [now - then for now, then in zip(counts(servers), before, strict=True)]
        if sum(more):
            break
        time.sleep(0.01)
    assert sorted(more) == [0, 1]
    return more.index(1)


def test_a_session_has_one_server_and_many_sessions_have_both(replicas):
    proxy, servers = replicas
    client = Client(proxy.address)
    by_session = {s: who_answers(servers, lambda s=s: client.recommend(TITLES[:2], session=s, k=3)) for s in SESSIONS}
    assert set(by_session.values()) == {0, 1}
    for session in SESSIONS[:6]:
        longer = who_answers(servers, lambda s=session: client.recommend(TITLES[:3], session=s, k=3))
        assert longer == by_session[session]
    assert {who_answers(servers, lambda: proxy.post({"history": TITLES[:2]})) for _ in range(24)} == {0, 1}


def test_the_sessions_of_a_lost_server_are_answered_by_the_other(replicas):
    proxy, (first, second) = replicas
    expected = proxy.post({"history": TITLES[:2]})["items"]
    first.process.kill()
    first.process.wait()
    for session in SESSIONS:
        with Client(proxy.address, session=session) as client:
            items = client.recommend(TITLES[:2]).items
        assert [item.id for item in items] == [item["id"] for item in expected]
    second.process.kill()
    second.process.wait()
    with pytest.raises(urllib.error.HTTPError) as none_left:
        proxy.post({"history": TITLES[:2]})
    assert none_left.value.code == 502


def test_ray_serve_has_the_answers_of_the_server(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'delrec-lite[ray]'")
    serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
    monkeypatch.syspath_prepend(CONFIGURATION.parent)
    monkeypatch.setenv("SHOP_KEY", "secret")
    bundle = tiny_bundle(tmp_path).bundle.folder
    app = import_module("ray_serve").app
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    join_cluster(ray, 4)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"bundle": str(bundle), "replicas": "2"}), name="delrec")
        with Client(f"http://127.0.0.1:{port}", key="secret", session="user 1", timeout=60) as client:
            answer = client.recommend(TITLES[:2], k=5)
            again = client.recommend(TITLES[:3], k=5)
        with Client(f"http://127.0.0.1:{port}", key="wrong") as client, pytest.raises(RefusedError) as refused:
            client.recommend(TITLES[:2])
    finally:
        serve.shutdown()
        ray.shutdown()
    assert refused.value.status == 401
    with Recommender.load(bundle, threads=1) as recommender:
        assert [item.id for item in answer.items] == [item.id for item in recommender.recommend(TITLES[:2], k=5).items]
        assert [item.id for item in again.items] == [item.id for item in recommender.recommend(TITLES[:3], k=5).items]
