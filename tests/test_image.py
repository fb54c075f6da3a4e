"""The image: built from the Containerfile's own lines, it serves as another user with a read-only root."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import export_tiny
from tests.images import copy_context, exec_form, read_stages

ROOT = Path(__file__).parents[1]
STAGES = read_stages((ROOT / "Containerfile").read_text())


def test_the_images_are_not_root_and_listen_where_they_say():
    assert list(STAGES)[-1] == "onnx", "the last stage is the one that is built by default"
    for name in ("onnx", "gguf"):
        settings = STAGES[name].settings
        assert settings["USER"] == "65534:65534"
        command = exec_form(settings["ENTRYPOINT"])
        assert command[command.index("--port") + 1] == settings["EXPOSE"]
        assert f":{settings['EXPOSE']}/readyz" in settings["HEALTHCHECK"]
        copied = [rest for word, rest in STAGES[name].steps if word == "COPY"]
        assert copied == [f"--from=build-{name} /opt/delrec /opt/delrec"], (
            "nothing else of the build goes into the image"
        )


def test_the_build_context_holds_what_is_installed_and_nothing_else(tmp_path):
    copy_context(ROOT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "delrec_lite", "export", "bench"),
    }
    assert (tmp_path / "delrec_lite" / "server" / "static" / "index.html").is_file()
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    for package in project["tool"]["setuptools"]["packages"]:
        mapped = package.replace("delrec_lite.export", "export").replace("delrec_lite.bench", "bench")
        assert (tmp_path / mapped.replace(".", "/") / "__init__.py").is_file(), package
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 4_000_000


# Runs beside the server, as root of this machine: the image's own python asks, and the root folder is looked at.
SCRIPT = """
python3 - <<'PYTHON'
import json, os, urllib.error, urllib.request

def ask(path, body=None, key="k"):
    headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:8080" + path, body and json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()

root, server = os.environ["ROOT"], os.environ["SERVER"]
status = dict(line.split(":", 1) for line in open(f"/proc/{server}/status").read().splitlines())
titles = [item["title"] for item in json.loads(ask("/v1/items?limit=3"))]
answer = json.loads(ask("/v1/recommend", {"history": titles, "k": 3, "session": "s"}))
explained = json.loads(ask("/v1/explain", {"history": titles}))
packages = sorted(os.listdir(next(os.scandir(root + "/opt/delrec/lib")).path + "/site-packages"))
size = sum(
    os.lstat(os.path.join(folder, name)).st_size
    for folder, _, names in os.walk(root + "/opt/delrec") for name in names
)
try:
    open(root + "/opt/delrec/written", "w")
    writable = True
except OSError:
    writable = False
print(json.dumps({
    "items": len(answer["items"]), "explained": len(explained["contributions"]), "packages": packages, "size": size,
    "metrics": b"delrec_requests" in ask("/metrics"), "writable": writable,
    "uid": status["Uid"].split(), "capabilities": status["CapEff"].strip(),
}))
PYTHON
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("target", ["onnx"])
def test_the_image_serves_without_root_and_writes_nothing(tiny_base, tmp_path, target):
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    bundle = export_tiny(tiny_base, tmp_path / "tiny.delrec", formats=target, onnx_quant="int8").path
    command = [*unshare, sys.executable, ROOT / "tests" / "images.py", "build", ROOT / "Containerfile", ROOT, target]
    command += [bundle, SCRIPT, "--api-key-env", "SHOP_KEY"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "SHOP_KEY": "k"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["items"], found["explained"], found["metrics"], found["writable"]) == (3, 3, True, False)
    assert set(found["uid"]) == {"65534"}
    assert int(found["capabilities"], 16) == 0
    assert not {"torch", "pip", "tests", "pytest", "transformers", "setuptools"} & set(found["packages"])
    assert not any(name.startswith("nvidia") for name in found["packages"])
    assert found["size"] < 260_000_000
    log = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert log[0]["address"] == "http://0.0.0.0:8080"
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line]
