"""`serve` as a process with keys, TLS, a Unix socket and several models, and clear errors before the model loads."""

import http.client
import json
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import urllib.error
import urllib.request

import pytest

from delrec_lite.errors import UsageError
from delrec_lite.server.listening import listen_on_file
from delrec_lite.server.tls import load_pair, reload_pair
from tests.bundles import TITLES, tiny_bundle
from tests.command import run
from tests.serving import Served

KEY = "shop-key-1234567890"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two certificates of localhost and their keys; the third key has a password."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        make += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"]
        subprocess.run([*make, "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    lock = ["openssl", "pkey", "-in", "one.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key"]
    subprocess.run(lock, cwd=folder, check=True, capture_output=True)
    (folder / "rubbish.pem").write_text("no PEM\n")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("one.pem", "two.key", "two.key is not that of the certificate"),
        ("one.pem", "locked.key", "locked.key has a password"),
        ("rubbish.pem", "one.key", "rubbish.pem holds no certificate"),
        ("one.pem", "rubbish.pem", "rubbish.pem holds no key"),
        ("one.key", "one.pem", "one.key holds no certificate"),
        ("none.pem", "one.key", "--tls-cert"),
        ("one.pem", "none.key", "--tls-key"),
        ("one.pem", ".", "cannot be read"),
    ],
)
def test_a_pair_that_cannot_be_used_is_one_clear_error(pairs, certificate, key, words):
    with pytest.raises(UsageError) as raised:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pairs / certificate, pairs / key)
    assert words in raised.value.message
    assert raised.value.hint


def test_a_broken_pair_is_not_read_again(pairs, tmp_path, caplog):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, pairs / "one.pem", pairs / "one.key")
    with caplog.at_level("INFO", "delrec_lite.server"):
        reload_pair(context, pairs / "one.pem", pairs / "two.key")
        reload_pair(context, pairs / "two.pem", pairs / "two.key")
    assert [json.loads(record.message)["certificate"] for record in caplog.records] == ["refused", "read"]


def test_keys_tls_and_two_models_in_one_server(pairs, tmp_path):
    certificate, key, keys = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "keys"
    keys.write_text(f"shop: {KEY}\n")
    for source, target in (("one.pem", certificate), ("one.key", key)):
        shutil.copy(pairs / source, target)
    (tmp_path / "serve.yaml").write_text(f"tls_cert: {certificate}\ntls_key: {key}\nworkers: 1\n")
    options = ["--config", str(tmp_path / "serve.yaml"), "--api-keys", str(keys)]
    bearer = {"Authorization": f"Bearer {KEY}"}
    with Served(tmp_path, *options, DELREC_SERVE_WORKERS="2") as served:
        assert served.address.startswith("https://")
        assert json.loads(served.wait_for("address"))["workers"] == 2
        served.context = ssl.create_default_context(cafile=pairs / "one.pem")
        for user in range(4):
            body = {"session": f"user {user}", "k": 40}
            first = served.post({"history": TITLES[:2], **body}, **bearer)
            again = served.post({"history": TITLES[:3], **body}, **bearer)
            assert (first["tokens_computed"], again["tokens_computed"]) == (2, 1)
        with pytest.raises(urllib.error.HTTPError) as raised:
            served.post({"history": TITLES[:2]})
        assert raised.value.code == 401
        raised.value.close()  # else the server would wait for the end of the connection
        assert '"key": "shop"' in served.log.read_text()
        assert KEY not in served.log.read_text()

        newer = tiny_bundle(tmp_path / "new", seed=5, name="tiny").bundle.folder
        shutil.rmtree(served.bundle)
        newer.rename(served.bundle)
        for source, target in (("two.pem", certificate), ("two.key", key)):
            shutil.copy(pairs / source, target)
        keys.write_text("shop: the-next-key\n")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for('"reload": "done"')
        served.context = ssl.create_default_context(cafile=pairs / "two.pem")
        bearer = {"Authorization": "Bearer the-next-key"}
        answers = [served.post({"history": TITLES[:2], "session": f"user {n}"}, **bearer) for n in range(4)]
        assert {answer["tokens_computed"] for answer in answers} == {2}  # no model keeps a session of the old bundle
        assert len({json.dumps(answer["items"]) for answer in answers}) == 1
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) in {0, -signal.SIGTERM}


class OverFile(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def test_a_server_on_a_unix_socket(tmp_path):
    path = tmp_path / "delrec.sock"
    with listen_on_file(path):
        pass
    with socket.socket(socket.AF_UNIX) as left_over:  # of a server that was killed
        left_over.bind(str(path))
    pid = tmp_path / "server.pid"
    with Served(tmp_path, "--uds", str(path), "--pid-file", str(pid), "--host", "0.0.0.0") as served:
        assert served.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        connection = OverFile(path)
        body = json.dumps({"history": TITLES[:2]})
        connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
        assert len(json.loads(connection.getresponse().read())["items"]) == 10
        connection.close()
        second = run("serve", served.bundle, "--uds", path)
        assert (second.returncode, "another server listens" in second.stderr) == (2, True)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) in {0, -signal.SIGTERM}
        assert "can be reached from other machines" not in served.log.read_text()
    assert (path.exists(), pid.exists()) == (False, False)


def test_a_path_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("important")
    for wrong in (path, tmp_path):
        with pytest.raises(UsageError, match="is no socket"), listen_on_file(wrong):
            pass
    assert path.read_text() == "important"
    for wrong in (tmp_path / "no" / "folder.sock", tmp_path / ("x" * 200)):
        with pytest.raises(UsageError, match="cannot listen on"), listen_on_file(wrong):
            pass


def test_a_later_servers_socket_is_left_alone(tmp_path):
    path = tmp_path / "delrec.sock"
    with listen_on_file(path):
        path.unlink()
        path.write_text("another server's")
    assert path.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rate", "many"], "--rate is 'many'"),
        (["--api-keys", "none"], "the keys in none cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, options, words):
    process = run("serve", "no.delrec", *options, cwd=tmp_path)
    assert process.returncode in {2, 3}
    assert words in process.stderr
    assert "Traceback" not in process.stderr
