"""The signals and the pid file of a server: nothing is lost while it starts, and nobody else's file is touched."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.server import serve
from delrec_lite.server.pid_file import pid_file
from delrec_lite.server.serve import Settings, _announce, _listen
from tests.bundles import TITLES
from tests.serving import Served

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_hangup_is_remembered_before_anything_slow_is_imported():
    code = """
import os, signal, sys
sys.argv = ["delrec-lite", "serve"]
import delrec_lite.cli
assert not {"typer", "numpy", "rich"} & set(sys.modules)
for _ in range(3):
    os.kill(os.getpid(), signal.SIGHUP)
from delrec_lite.server.signals import on_hangup
import threading
reloaded = threading.Semaphore(0)
with on_hangup(reloaded.release):
    assert reloaded.acquire(timeout=10)
print("alive", reloaded.acquire(blocking=False))
"""
    process = run(code)
    assert process.stdout == "alive False\n", process.stderr  # three at once are one reload


def test_an_interrupt_before_the_command_line_is_ready_shows_no_traceback():
    code = """
import os, signal, sys
sys.argv = ["delrec-lite", "serve"]
import delrec_lite.cli
os.kill(os.getpid(), signal.SIGINT)
"""
    process = run(code)
    assert (process.returncode, process.stderr) == (-signal.SIGINT, "")


def test_other_verbs_keep_their_signals():
    code = """
import signal, sys
sys.argv = ["delrec-lite", "train", "serve"]
import delrec_lite.cli
print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, signal.getsignal(signal.SIGINT) == signal.default_int_handler)
"""
    assert run(code).stdout == "True True\n"


def test_a_server_that_is_hung_up_on_while_it_starts_loads_its_bundle_again(tmp_path):
    path = tmp_path / "server.pid"
    options = ["--pid-file", str(path), "--root-path", "/recs", "--cors-origin", "https://shop.example"]
    with Served(tmp_path, *options, before=lambda process: hang_up(path, process)) as served:
        served.wait_for('"reload": "done"')
        assert path.read_text() == f"{served.process.pid}\n"
        assert served.post({"history": TITLES[:2]})["items"]
        request = urllib.request.Request(f"{served.address}/recs/readyz", headers={"Origin": "https://shop.example"})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) in {0, -signal.SIGTERM}
    assert not path.exists()


def hang_up(path, process):
    """Send SIGHUP as soon as the pid file is there, which is before the model is loaded."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGHUP)


def test_a_pid_file_is_written_and_removed(tmp_path):
    path = tmp_path / "server.pid"
    path.write_text("123\n")  # of a server that was killed
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    with pid_file(path):
        path.write_text("456\n")  # of a later server
    assert path.read_text() == "456\n"
    with pytest.raises(StorageError, match="cannot write"), pid_file(tmp_path / "no" / "folder.pid"):
        pass


def test_a_server_that_is_terminated_while_it_starts_removes_its_pid_file(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from delrec_lite.server.pid_file import pid_file
with pid_file(Path(sys.argv[1])):
    print(Path(sys.argv[1]).exists(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    process = run(code, str(tmp_path / "server.pid"))
    assert (process.returncode, process.stdout) == (-signal.SIGTERM, "True\n")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_pid_file_is_left_alone(tmp_path):
    notes = tmp_path / "notes.txt"
    for content in ("important", "12 monkeys", "1" * 100):
        notes.write_text(content)
        with pytest.raises(UsageError, match="is no file with a process id"), pid_file(notes):
            pass
        assert notes.read_text() == content
    with pytest.raises(UsageError, match="is no file with a process id"), pid_file(tmp_path):
        pass


def test_a_reload_that_fails_in_any_way_is_refused_in_one_line(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise PermissionError(13, "Permission denied", "model.gguf")

    monkeypatch.setattr(serve, "load", fail)
    with caplog.at_level("INFO", "delrec_lite.server"):
        serve._reload(tmp_path, Settings(), None)  # no worker is needed: nothing is replaced
    (line,) = [json.loads(record.message) for record in caplog.records]
    assert (line["reload"], "Permission denied" in line["error"]) == ("refused", True)
    assert line["hint"]


@pytest.mark.parametrize(
    ("host", "key", "warns"),
    [("0.0.0.0", None, True), ("0.0.0.0", "key", False), ("127.0.0.1", None, False), ("localhost", None, False)],
)
def test_a_public_address_without_a_key_is_warned_of(host, key, warns, caplog):
    class Served:
        class bundle:  # noqa: N801
            name, source = "tiny", None

    with _listen(host, 0) as listening, caplog.at_level("INFO", "delrec_lite.server"):
        _announce(listening, Served, Settings(host=host, key=key))
    assert ("can be reached from other machines" in caplog.text) == warns
    assert ("--api-key-env" in caplog.text) == warns
    assert ("/healthz" in caplog.text) == (key is not None)
    assert re.search(r'"address": "http://[\w.]+:\d+"', caplog.text)
