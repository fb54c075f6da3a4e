"""A data set of another package: pulled, prepared and named in a recipe, all from one record."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.config import parse
from delrec_lite.console import QUIET
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.hub.registry import DATASETS, Asset, find, find_dataset, register_dataset
from delrec_lite.pipeline.run import Run


def shop_files():
    rows = "".join(f"{user},{(user + n) % 9},{user * 10 + n}\n" for user in range(9) for n in range(4))
    items = "".join(f"{n},Lamp {n}\n" for n in range(9))
    return {"log.csv": "uid,sku,ts\n" + rows, "items.csv": "sku,name\n" + items}


@pytest.fixture
def lamps(page_module):
    """The module of the page on extending; what it registers is removed again."""
    module = page_module("lamps")
    DATASETS.unregister("lamps")
    return module


@pytest.fixture
def shop(tmp_path, monkeypatch, lamps):
    """The record of that page, served by a web server on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "DELREC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    site.mkdir()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        for name, text in shop_files().items():
            out.writestr(f"lamps/{name}", text)
    (site / "shop.zip").write_bytes(archive.getvalue())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    location = {"address": f"http://127.0.0.1:{server.server_port}/shop.zip", "bytes": len(archive.getvalue())}
    mirror = replace(lamps.LAMPS.mirrors[0], sha256=hashlib.sha256(archive.getvalue()).hexdigest(), **location)
    yield replace(lamps.LAMPS, mirrors=(mirror,))
    server.shutdown()
    server.server_close()
    DATASETS.unregister("lamps")


def run(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_one_record_is_pulled_prepared_and_named_in_a_recipe(shop, tiny_base, tmp_path):
    register_dataset(shop)
    (pulled,) = run("pull", "lamps")
    assert (pulled["mirror"], sorted(pulled["files"])) == ("example.org", ["items.csv", "log.csv"])
    out = tmp_path / "prepared"
    prepared = run("prepare", "lamps", "--out", out, "--k-core", 2, "--candidates", 3)
    assert (prepared["users"], prepared["items"]) == (9, 9)
    assert load_dataset(out).catalog.titles[0] == "Lamp 0"
    text = f"name: r\ndata: {{name: lamps, k_core: 2, candidates: 3}}\nmodel: {{base: {tiny_base}}}\n"
    stage = Run(parse(text, "r.yaml"), tmp_path / "runs", QUIET).prepare()
    assert stage.result["fingerprint"] == prepared["fingerprint"]


def test_a_name_that_cannot_be_pulled_is_refused_where_the_recipe_is_read(shop):
    for text in ("name: r\ndata: {name: lamps}\n", "name: r\ndata: {name: smollm2-135m-instruct}\n"):
        with pytest.raises(ConfigError, match=r"data: .*not a data set to pull: use one of ml-100k, ml-1m, or set"):
            parse(text, "r.yaml")
    assert parse("name: r\ndata: {name: mine, folder: data/mine}\n", "r.yaml").data.name == "mine"
    register_dataset(shop)
    assert parse("name: r\ndata: {name: lamps}\n", "r.yaml").data.name == "lamps"
    DATASETS.unregister("lamps")
    with pytest.raises(UsageError, match="no model or data set 'lamps'"):
        find("lamps")
    with pytest.raises(UsageError, match="is a model, not a data set") as caught:
        find_dataset("smollm2-135m-instruct")
    assert caught.value.hint == "one of ml-100k, ml-1m"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reader": ""}, "no data set with a reader"),
        ({"kind": "model"}, "no data set with a reader"),
        ({"name": "smollm2-135m-instruct"}, "is a model that comes with"),
        ({"name": "ml-100k"}, "'ml-100k' comes with delrec-lite"),
    ],
)
def test_invalid_records_cannot_be_registered(changed, words):
    fields = {"name": "x", "kind": "dataset", "licence": "", "homepage": "", "mirrors": (), "reader": "lamps:read"}
    with pytest.raises(UsageError, match=words):
        register_dataset(Asset(**fields | changed))


def test_the_data_set_of_an_installed_package_is_known_to_the_command(tmp_path):
    metadata = tmp_path / "toy_data-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[delrec_lite.datasets]\nshop-installed = toy_data:SHOP\n")
    (tmp_path / "toy_data.py").write_text(
        "from delrec_lite.hub.registry import Asset\n"
        "SHOP = Asset('shop-installed', 'dataset', 'CC0', 'http://home', (), reader='toy_data:read')\n"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])}
    command = [sys.executable, "-m", "delrec_lite", "prepare", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == UsageError.exit_code
    assert "ml-100k, ml-1m, shop-installed" in " ".join(done.stderr.split())
