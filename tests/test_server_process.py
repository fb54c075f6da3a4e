"""`serve` as a process: clear errors at the start, reload on SIGHUP and a clean end."""

import json
import shutil
import signal
import socket
import subprocess
import urllib.error

import pytest

from delrec_lite.errors import UsageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.serve import _listen
from tests.bundles import TITLES, tiny_bundle
from tests.serving import MARKUP, PROGRAM, Served


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as server:
        yield server


def test_a_quantisation_that_the_bundle_lacks_is_one_clear_error(tiny_bundle):
    process = subprocess.run(
        [PROGRAM, "serve", tiny_bundle, "--port", "0", "--quant", "q8_0"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert "no model of the quantisation 'q8_0'" in process.stderr
    assert "it holds f16" in process.stderr


def test_a_used_port_a_missing_bundle_and_a_missing_key_are_clear_errors(tmp_path, tiny_bundle):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        process = subprocess.run(
            [PROGRAM, "serve", tiny_bundle, "--port", port], capture_output=True, text=True, check=False
        )
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in process.stderr
    process = subprocess.run([PROGRAM, "serve", tmp_path, "--port", "0"], capture_output=True, text=True, check=False)
    assert process.returncode == 6
    assert "Traceback" not in process.stderr
    process = subprocess.run(
        [PROGRAM, "serve", tiny_bundle, "--api-key-env", "NO_SUCH"], capture_output=True, text=True, check=False
    )
    assert (process.returncode, "NO_SUCH" in process.stderr) == (2, True)


@pytest.mark.parametrize("host", ["é" * 70, "a" * 5000, "no such host", "300.1.1.1"])
def test_an_invalid_host_is_one_clear_error(host):
    with pytest.raises(UsageError, match="cannot listen on"):
        _listen(host, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_reload_accepts_an_intact_bundle_and_refuses_a_changed_one(served, tmp_path):
    before = served.post({"history": TITLES[:2]})["items"]
    model = next(served.bundle.glob("*.gguf"))
    content = model.read_bytes()
    model.with_suffix(".new").write_bytes(content[:-1] + b"x")
    model.with_suffix(".new").replace(model)
    served.process.send_signal(signal.SIGHUP)
    assert "sha256" in served.wait_for("refused")
    assert served.post({"history": TITLES[:2]})["items"] == before
    newer_bundle = tiny_bundle(tmp_path / "o", titles=(*TITLES[:-1], MARKUP), seed=5, name="tiny").bundle.folder
    shutil.rmtree(served.bundle)
    newer_bundle.rename(served.bundle)
    served.process.send_signal(signal.SIGHUP)
    served.wait_for('"reload": "done"')
    after = served.post({"history": TITLES[:2]})["items"]
    assert after != before
    assert [i["title"] for i in after] == [
        i.title for i in Recommender.load(served.bundle, threads=1).recommend(TITLES[:2]).items
    ]


def test_a_server_ends_on_sigterm_and_logs_no_history(served):
    served.post({"history": TITLES[:2]})
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) in {0, -signal.SIGTERM}
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert lines[-1]["path"] == "/v1/recommend"
    assert TITLES[0] not in served.log.read_text()
    with pytest.raises(urllib.error.URLError):
        served.post({"history": TITLES[:2]})


def test_parallel_clients_get_the_answers_of_a_single_client(served):
    from delrec_lite.bench.load import measure_load

    histories = [TITLES[n : n + 3] for n in range(8)]
    report = measure_load(served.address, histories, clients=6, seconds=1.0, requests=200, pid=served.process.pid)
    assert report.differing == 0
    assert set(report.statuses) == {"200"}
    assert report.statuses["200"] >= 200
    assert report.rss[-1] < report.rss[0] + 50_000_000
    with pytest.raises(ValueError, match="this machine"):
        measure_load("http://example.org", histories, 1, 1.0)


def test_the_report_of_a_load(tmp_path, tiny_bundle):
    """Too many clients for the queue: some requests are refused, and every answer is correct."""
    from delrec_lite.bench import load

    out = tmp_path / "load.json"
    sizes = [
        "--clients",
        "6",
        "--seconds",
        "1.0",
        "--rounds",
        "1",
        "--requests",
        "100",
        "--narrow",
        "1",
        "--batch",
        "4",
    ]
    load.main([str(tiny_bundle), "--out", str(out), *sizes])
    report = json.loads(out.read_text())
    wide, narrow = report["room for all"], report["too short"]
    assert report["machine"]["cores_allowed"] > 0
    assert set(wide["statuses"]) == {"200"}
    assert wide["statuses"]["200"] >= 100
    assert set(narrow["statuses"]) == {"200", "503"}
    assert narrow["refused_honestly"] == narrow["statuses"]["503"]
    assert wide["differing"] == narrow["differing"] == 0
    assert [(run["clients"], run["together"]) for run in report["runs"]] == [(6, 4), (6, 1), (1, 4), (1, 1)]
    assert all(set(run["statuses"]) == {"200"} and run["differing"] == 0 for run in report["runs"])
    assert narrow["ms"]["p50"] <= wide["ms"]["p50"]  # the places in the queue bound the wait
