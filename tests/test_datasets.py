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
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.config import parse
from delrec_lite.console import QUIET
from delrec_lite.data.readers import Columns, read_interactions, read_titles
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.hub.registry import DATASETS, Asset, File, Mirror, find, find_dataset, register_dataset
from delrec_lite.pipeline.run import Run


def read_shop(folder):
    """The reader of the made-up data set."""
    columns = Columns(user="uid", item="sku", time="ts", title="name")
    return read_interactions(folder / "log.csv", columns), read_titles(folder / "items.csv", columns)


def shop_files():
    rows = "".join(f"{user},{(user + n) % 9},{user * 10 + n}\n" for user in range(9) for n in range(4))
    items = "".join(f"{n},Lamp {n}\n" for n in range(9))
    return {"log.csv": "uid,sku,ts\n" + rows, "items.csv": "sku,name\n" + items}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The record of a data set that a web server on this machine delivers."""
    for name in ("http_proxy", "HTTP_PROXY", "DELREC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    site.mkdir()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as out:
        for name, text in shop_files().items():
            out.writestr(f"shop/{name}", text)
    (site / "shop.zip").write_bytes(whole.getvalue())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    files = tuple(File(f"shop/{name}") for name in shop_files())
    address = f"http://127.0.0.1:{server.server_port}/shop.zip"
    digest, size = hashlib.sha256(whole.getvalue()).hexdigest(), len(whole.getvalue())
    mirror = Mirror("home", "zip", address, files, digest, size)
    yield Asset("shop-mini", "dataset", "CC0", "http://home", (mirror,), reader=read_shop)
    server.shutdown()
    server.server_close()
    DATASETS.unregister("shop-mini")


def run(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_one_record_is_pulled_prepared_and_named_in_a_recipe(shop, tiny_base, tmp_path):
    register_dataset(shop)
    (pulled,) = run("pull", "shop-mini")
    assert (pulled["mirror"], sorted(pulled["files"])) == ("home", ["items.csv", "log.csv"])
    out = tmp_path / "prepared"
    prepared = run("prepare", "shop-mini", "--out", out, "--k-core", 2, "--candidates", 3)
    assert (prepared["users"], prepared["items"]) == (9, 9)
    assert load_dataset(out).catalog.titles[0] == "Lamp 0"
    text = f"name: r\ndata: {{name: shop-mini, k_core: 2, candidates: 3}}\nmodel: {{base: {tiny_base}}}\n"
    stage = Run(parse(text, "r.yaml"), tmp_path / "runs", QUIET).prepare()
    assert stage.result["fingerprint"] == prepared["fingerprint"]


def test_a_name_that_cannot_be_pulled_is_refused_where_the_recipe_is_read(shop):
    for text in ("name: r\ndata: {name: shop-mini}\n", "name: r\ndata: {name: smollm2-135m-instruct}\n"):
        with pytest.raises(ConfigError, match=r"data: .*no data set to pull: one of ml-100k; or set folder"):
            parse(text, "r.yaml")
    assert parse("name: r\ndata: {name: mine, folder: data/mine}\n", "r.yaml").data.name == "mine"
    register_dataset(shop)
    assert parse("name: r\ndata: {name: shop-mini}\n", "r.yaml").data.name == "shop-mini"
    DATASETS.unregister("shop-mini")
    with pytest.raises(UsageError, match="nothing to pull is called 'shop-mini'"):
        find("shop-mini")
    with pytest.raises(UsageError, match="is a model, not a data set") as told:
        find_dataset("smollm2-135m-instruct")
    assert told.value.hint == "one of ml-100k"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reader": ""}, "no data set with a reader"),
        ({"kind": "model"}, "no data set with a reader"),
        ({"name": "smollm2-135m-instruct"}, "is a model that comes with"),
        ({"name": "ml-100k"}, "'ml-100k' comes with delrec-lite"),
    ],
)
def test_what_is_no_data_set_of_its_own_cannot_be_registered(changed, words):
    given = {"name": "x", "kind": "dataset", "licence": "", "homepage": "", "mirrors": (), "reader": read_shop}
    with pytest.raises(UsageError, match=words):
        register_dataset(Asset(**given | changed))


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
    assert "ml-100k, shop-installed" in " ".join(done.stderr.split())
