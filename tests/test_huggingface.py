"""Files of the Hugging Face Hub, through a server on this machine that `HF_ENDPOINT` names."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from delrec_lite.console import QUIET
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.errors import FetchError, MissingPackageError
from delrec_lite.hub.base import find_base
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import ASSETS, Asset, File, Mirror
from tests.conftest import SECTIONS, export_tiny
from tests.fake_hub import REVISION, FakeHub
from tests.tiny import candidates, dataset

ROOT = Path(__file__).parents[1]
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400}
# Registers what the server has, as it should be, and pulls it.
PULL = """
import json, sys
from pathlib import Path
from delrec_lite.errors import DelrecError
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import ASSETS, Asset, File, Mirror
address, files = json.loads(sys.argv[1])
mirror = Mirror("huggingface.co", "hub", address, tuple(File(*file) for file in files))
ASSETS["thing"] = Asset("thing", "model", "CC0", "http://home", (mirror,))
try:
    pulled = pull("thing", cache=Path(sys.argv[2]))
    print(json.dumps({"files": pulled.files, "cached": pulled.cached}))
except DelrecError as error:
    print(json.dumps({"error": error.message}))
"""
BASE = """
import json, sys
from pathlib import Path
from delrec_lite.console import QUIET
from delrec_lite.errors import DelrecError
from delrec_lite.hub.base import find_base
try:
    print(json.dumps(find_base(sys.argv[1], QUIET, Path(sys.argv[2])).dump()))
except DelrecError as error:
    print(json.dumps({"error": error.message}))
"""


@pytest.fixture
def hub():
    server = FakeHub(FILES)
    yield server
    server.close()


@pytest.fixture
def call(hub, tmp_path):
    """Runs code in a process of its own: huggingface_hub reads its settings when it is imported."""

    def run(code, *arguments, **changes):
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DELREC_")) and "proxy" not in k.lower()
        }
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
        process = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**environment, **settings, **changes},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        return json.loads(process.stdout or "null")

    return run


def sha(data):
    return hashlib.sha256(data).hexdigest()


def of_the_repository(hub):
    """Without what version 2 of huggingface_hub asks its server on its own account."""
    return [request for request in hub.requests if "/owner/thing" in request[1]]


def pinned(files=FILES):
    """What `PULL` registers."""
    return json.dumps([f"owner/thing@{REVISION}", [[name, sha(data), len(data)] for name, data in files.items()]])


def test_a_pull_uses_endpoint_token_and_cache_of_the_user(hub, call, tmp_path):
    pulled = call(PULL, pinned(), str(tmp_path / "cache"))
    assert pulled == {"files": {name: sha(data) for name, data in FILES.items()}, "cached": False}
    assert (tmp_path / "cache/models/thing/model.safetensors").read_bytes() == FILES["model.safetensors"]
    requests = [
        request for request in hub.requests if "/owner/thing" in request[1]
    ]  # version 2 of the library has others
    assert {token for _, _, token in requests} == {"Bearer hf_secret"}
    assert all(REVISION in path for _, path, _ in requests)
    hub.requests.clear()
    assert call(PULL, pinned(), str(tmp_path / "cache"))["cached"] is True
    repeated = call(PULL, pinned(), str(tmp_path / "another"))  # files in the cache of the Hub are not fetched again
    assert repeated["files"] == pulled["files"]
    assert of_the_repository(hub) == []


@pytest.mark.parametrize(
    ("part", "message"), [(slice(None, None, -1), "wrong sha256"), (slice(100), "truncated at 100")]
)
def test_a_file_that_differs_from_its_pin_is_refused_and_not_cached(hub, call, tmp_path, part, message):
    hub.files["model.safetensors"] = FILES["model.safetensors"][part]
    assert message in call(PULL, pinned(), str(tmp_path / "cache"))["error"]
    hub.files["model.safetensors"] = FILES["model.safetensors"]
    assert "error" not in call(PULL, pinned(), str(tmp_path / "cache"))


def test_the_error_names_an_unreachable_endpoint_as_a_reason(hub, call, tmp_path):
    del hub.files["config.json"]
    assert re.search(r"huggingface\.co: .*404", call(PULL, pinned(), str(tmp_path / "cache"))["error"])
    refused = call(PULL, pinned(), str(tmp_path / "cache"), HF_ENDPOINT="http://127.0.0.1:9")["error"]
    assert "huggingface.co: unreachable" in refused


@pytest.mark.parametrize("base", ["owner/thing", f"owner/thing@{REVISION}"])
def test_a_base_of_the_hub_is_read_from_the_same_cache_also_offline(hub, call, tmp_path, base):
    hub.files |= {"tokenizer.json": b"{}", "pytorch_model.bin": b"never asked for"}
    nothing = call(BASE, base, str(tmp_path), DELREC_OFFLINE="1")["error"]
    assert "not in the cache and DELREC_OFFLINE" in nothing
    assert of_the_repository(hub) == []
    resolved = call(BASE, base, str(tmp_path), DELREC_OFFLINE="0")
    assert resolved["name"] == "thing"
    assert set(resolved["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert Path(resolved["folder"]).is_relative_to(tmp_path / "home")
    hub.requests.clear()
    assert call(BASE, base, str(tmp_path), DELREC_OFFLINE="yes") == resolved
    assert of_the_repository(hub) == []


def test_without_huggingface_hub_the_next_mirror_is_tried_and_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    mirror = Mirror("huggingface.co", "hub", f"owner/thing@{REVISION}", (File("config.json", sha(b"{}"), 2),))
    dead = Mirror("dead", "zip", "http://127.0.0.1:9/x.zip", (File("a"),), sha(b""), 1)
    monkeypatch.setitem(ASSETS, "thing", Asset("thing", "model", "CC0", "http://home", (mirror, dead)))
    monkeypatch.delenv("DELREC_OFFLINE", raising=False)
    monkeypatch.setattr("delrec_lite.hub.fetch.urllib.request.getproxies", dict)
    with pytest.raises(FetchError, match=r'not installed: pip install "delrec-lite\[hub\]"; dead: unreachable'):
        pull("thing", cache=tmp_path)
    with pytest.raises(MissingPackageError, match="huggingface_hub"):
        find_base("owner/thing", QUIET, tmp_path)


@pytest.mark.parametrize(("verb", "base"), [("export", "folder"), ("train", "gguf")])
def test_no_stage_sends_requests_to_the_hub_or_shows_a_progress_bar_of_a_library(
    hub, call, tiny_base, tmp_path, verb, base
):
    """Weights come through `pull` or from the disk, never from inside a stage."""
    if base == "gguf":
        bundle = export_tiny(tiny_base, tmp_path / "x.delrec", "f16", prune_vocab=False)
        tiny_base = next(bundle.path.glob("*.gguf"))
    data = dataset()
    data = make_dataset("ring", data.catalog, data.user_ids, data.sequences)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, Settings(2, 5, 3), tmp_path / "ring")
    sections = {
        **SECTIONS,
        "name": "r",
        "data": {"folder": str(tmp_path / "ring")},
        "model": {**SECTIONS["model"], "base": str(tiny_base), "precision": "fp32"},
        "distill": {**SECTIONS["distill"], "train_llm": True},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(sections))
    arguments = [verb, str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs"), "--quiet"]
    code = f"import sys; from delrec_lite.cli.app import main; sys.argv[1:] = {arguments!r}; main()"
    call(code, DELREC_CACHE=str(tmp_path / "cache"))  # with nothing on stderr
    assert (tmp_path / "runs/r/finetune/done.json").is_file()
    assert of_the_repository(hub) == []
