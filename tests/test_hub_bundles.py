"""Bundles pushed to a stand-in of the Hugging Face Hub, and loaded from it."""

import json
import os
import shutil

import pytest
import yaml

from delrec_lite.errors import BundleError, FetchError, StorageError, UsageError
from delrec_lite.hub.address import parse_address
from delrec_lite.publishing.push import push
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.remote import RECORD
from tests.bundles import TITLES, tiny_bundle
from tests.command import run
from tests.hub_server import TOKEN, HubServer

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
NAME = "shop/films"
OWN = {"name": "films", "folder": "data/films"}
OPEN = {"name": "open-films", "folder": None}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle")).bundle.folder


@pytest.fixture
def bundle(shared, tmp_path):
    """Made from the user's own data."""
    return of_data(shutil.copytree(shared, tmp_path / "tiny.delrec"), OWN)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stand-in that huggingface_hub talks to in this process."""
    server = HubServer()
    for name in list(os.environ):
        if name.startswith(("HF_", "DELREC_")) or "proxy" in name.lower():
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.close()


def of_data(folder, data, licences=None, base="smollm2-135m-instruct"):
    """Give a bundle another origin."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"] = {"recipe": {"name": "tiny", "model": {"base": base}, "data": data}}
    manifest["licences"] = licences or {base: "Apache-2.0"}
    path.write_text(json.dumps(manifest))
    return folder


def head(card):
    return yaml.safe_load(card.split("---")[1])


def downloads(hub):
    return [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def answer(path):
    with Recommender.load(path, threads=1) as recommender:
        return recommender.recommend(TITLES[:3], 5).items, recommender.bundle.source


def test_a_private_bundle_comes_back_as_it_was_pinned_and_offline(hub, bundle, monkeypatch, caplog):
    pushed = push(bundle, NAME, private=True)
    assert hub.repositories[NAME].private
    commit = pushed.address.partition("@")[2]
    assert set(hub.repositories[NAME].commits[commit]) == {*(p.name for p in bundle.iterdir()), "README.md"}
    with caplog.at_level("INFO", "delrec_lite"):
        items, source = answer(f"hf://{NAME}")
    assert items == answer(bundle)[0]
    assert source == pushed.address == f"hf://{NAME}@{commit}"
    assert pushed.address in caplog.text
    hub.requests.clear()
    assert answer(pushed.address)[0] == items
    assert hub.requests == []  # a commit never changes
    hub.close()
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    assert answer(f"hf://{NAME}") == (items, source)
    with pytest.raises(FetchError, match="not in the cache"):
        Bundle.open(f"hf://{NAME}@other")


def test_a_catalogue_of_ones_own_becomes_public_only_if_that_is_said(hub, bundle):
    for _ in range(2):
        with pytest.raises(UsageError, match="40 titles and the stored histories.*data of your own") as refused:
            push(bundle, NAME)
        assert "--private" in refused.value.hint
        assert "--with-catalogue" in refused.value.hint
    assert hub.requests == []
    push(bundle, NAME, with_catalogue=True)
    assert not hub.repositories[NAME].private
    before = dict(hub.repositories[NAME].branches)
    with pytest.raises(UsageError, match="exists and is public"):
        push(bundle, NAME, private=True)
    assert hub.repositories[NAME].branches == before


def test_the_licence_and_origin_of_the_data_set_decide(hub, bundle):
    refused = {
        "licence of its data set open-films does not allow it: research only": {"open-films": "research only"},
        "none is known": {"smollm2-135m-instruct": "Apache-2.0"},
    }
    for message, licences in refused.items():
        with pytest.raises(UsageError, match=message):
            push(of_data(bundle, OPEN, licences), NAME)
    with pytest.raises(UsageError, match="nothing in the bundle says"):
        push(of_data(bundle, {}), NAME)
    of_data(bundle, OPEN, {"open-films": "CC BY 4.0"})
    assert push(bundle, NAME, dry_run=True).private is None
    add_items(bundle, {"n1": "A film of our own"})
    with pytest.raises(UsageError, match="1 items were added"):
        push(bundle, NAME, dry_run=True)


def test_a_hub_that_makes_the_repository_public_gets_nothing(hub, bundle):
    hub.makes_public = True
    with pytest.raises(UsageError, match="public, not private; nothing was pushed"):
        push(bundle, NAME, private=True)
    assert list(hub.repositories[NAME].commits.values()) == [{}]


def test_the_card_has_the_fields_of_the_hub_and_the_figures_of_the_run(hub, bundle):
    recipe = json.loads((bundle / "manifest.json").read_text())["provenance"]["recipe"]
    row = {"model": "DELRec (GGUF f32)", "protocol": "full", "users": 9, "metrics": {"NDCG@10": 0.25}}
    others = {"model": "SASRec", "protocol": "full", "users": 9, "metrics": {"NDCG@10": 0.5}}
    (bundle.parent / "report.json").write_text(json.dumps({"recipe": recipe, "rows": [others, row]}))
    push(bundle, NAME, private=True)
    card = huggingface_hub.ModelCard(
        hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]["README.md"].decode()
    )
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (card.data.license, card.data.license_link) == ("other", "LICENCES.md")
    assert card.data.metrics == ["ndcg@10"]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("ndcg@10", 0.25, "films")
    (bundle.parent / "report.json").write_text(json.dumps({"recipe": {**recipe, "name": "other"}, "rows": [row]}))
    assert "model-index" not in head(push(bundle, NAME, private=True, dry_run=True).card)


@pytest.mark.parametrize(
    ("base", "licences", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B@main", {"open-films": "CC0", "b": "MIT"}, ("Qwen/Qwen2.5-0.5B", "other", ["open-films"])),
        (
            "smollm2-135m-instruct",
            {"open-films": "Apache-2.0"},
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", ["open-films"]),
        ),
        ("./my/base", {"open-films": "cc-by-4.0"}, (None, "cc-by-4.0", ["open-films"])),
        ("/home/me/base", {"b": "MIT"}, (None, "other", None)),
    ],
)
def test_base_licence_and_data_set_are_names_of_the_hub(hub, bundle, base, licences, expected):
    of_data(bundle, OPEN, licences, base)
    fields = head(push(bundle, NAME, private=True, dry_run=True).card)
    assert (fields.get("base_model"), fields["license"], fields.get("datasets")) == expected


def test_a_dry_run_sends_nothing(hub, bundle):
    planned = push(bundle, NAME, private=True, dry_run=True)
    assert not planned.pushed
    assert planned.files["catalog.json"] == (bundle / "catalog.json").stat().st_size
    assert hub.requests == []


def test_a_second_push_removes_what_the_bundle_has_no_more_and_nothing_of_others(hub, bundle):
    push(bundle, NAME, private=True)
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository.commits[repository.branches["main"]], "picture.png": b"mine"})
    extra = bundle / "new-file.txt"
    extra.write_text("more")
    manifest = json.loads((bundle / "manifest.json").read_text())
    from delrec_lite.files import sha256_of

    listed = manifest["files"] | {extra.name: {"sha256": sha256_of(extra), "bytes": 4}}
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "files": listed}))
    push(bundle, NAME, private=True)
    assert "new-file.txt" in repository.commits[repository.branches["main"]]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert push(bundle, NAME, private=True).removed == ["new-file.txt"]
    files = repository.commits[repository.branches["main"]]
    assert "picture.png" in files
    assert "new-file.txt" not in files


def test_a_branch_is_made_and_loaded_by_its_name(hub, bundle):
    push(bundle, NAME, private=True, revision="v2")
    assert set(hub.repositories[NAME].branches) == {"main", "v2"}
    assert answer(f"hf://{NAME}@v2")[0]
    with pytest.raises(FetchError, match=r"lacks manifest.json"):
        Bundle.open(f"hf://{NAME}")
    with pytest.raises(FetchError, match="no revision 'v3'"):
        Bundle.open(f"hf://{NAME}@v3")


def test_a_card_that_the_hub_refuses_pushes_nothing(hub, bundle):
    hub.card_error = "license is not known"
    with pytest.raises(FetchError, match="license is not known"):
        push(bundle, NAME, private=True)
    assert list(hub.repositories[NAME].commits.values()) == [{}]


def edit(hub, name, data):
    """Put other content into the newest commit, as a Hub that lies would."""
    repository = hub.repositories[NAME]
    repository.commits[repository.branches["main"]][name] = data


def test_a_tampered_file_of_the_hub_is_refused_and_fetched_again(hub, bundle):
    push(bundle, NAME, private=True)
    good = (bundle / "catalog.json").read_bytes()
    edit(hub, "catalog.json", good.replace(b"Red", b"Bad"))
    with pytest.raises(BundleError, match=rf"hf://{NAME}@.*catalog.json is not the file that was exported") as error:
        Bundle.open(f"hf://{NAME}")
    assert "catalog.json was removed from the cache" in error.value.hint
    edit(hub, "catalog.json", good)
    assert Bundle.open(f"hf://{NAME}").items.titles == list(TITLES)


def test_a_file_that_changes_in_the_cache_is_noticed(hub, bundle, tmp_path):
    push(bundle, NAME, private=True)
    folder = Bundle.open(f"hf://{NAME}").folder
    blob = (folder / "model-f32.gguf").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="wrong sha256"):
        Bundle.open(f"hf://{NAME}")
    assert Bundle.open(f"hf://{NAME}")
    manifest = (folder / "manifest.json").resolve()
    manifest.write_text(manifest.read_text().replace('"gated": false', '"gated": true'))
    with pytest.raises(BundleError, match="another manifest than at its first use"):
        Bundle.open(f"hf://{NAME}")
    assert Bundle.open(f"hf://{NAME}").manifest["gated"] is False
    (entry,) = json.loads((tmp_path / "cache" / RECORD).read_text())
    assert entry["commit"].startswith(f"hf://{NAME}@")


@pytest.mark.parametrize("name", ["../stolen", "/etc/passwd", "a/b", "..\\x"])
def test_a_manifest_that_points_out_of_its_folder_is_refused_before_anything_is_fetched(hub, bundle, name):
    push(bundle, NAME, private=True)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0", "bytes": 1}
    edit(hub, "manifest.json", json.dumps(manifest).encode())
    hub.requests.clear()
    with pytest.raises(BundleError, match="not a plain file name"):
        Bundle.open(f"hf://{NAME}")
    assert {path.rpartition("/")[2] for path in downloads(hub)} == {"manifest.json"}


def test_a_manifest_of_another_program_is_refused(hub, bundle):
    push(bundle, NAME, private=True)
    edit(hub, "manifest.json", b'{"schema": 9}')
    with pytest.raises(BundleError, match="bundle schema 9"):
        Bundle.open(f"hf://{NAME}")


def test_half_a_download_is_one_error_and_the_next_call_completes_it(hub, bundle, monkeypatch):
    push(bundle, NAME, private=True)
    hub.cut = {"model-f32.gguf"}
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(FetchError, match=f"cannot read hf://{NAME}") as error:
        Bundle.open(f"hf://{NAME}")
    assert "run it again" in error.value.hint
    hub.cut = set()
    assert Bundle.open(f"hf://{NAME}").items.titles == list(TITLES)


def test_without_network_or_with_a_hub_out_of_order_the_last_commit_of_the_cache_is_used(hub, bundle, capsys):
    address = f"hf://{NAME}"
    push(bundle, NAME, private=True)
    expected = Bundle.open(address).source
    hub.status = 503
    assert Bundle.open(address).source == expected
    with pytest.raises(FetchError, match="out of order"):
        Bundle.open(f"{address}@v9")
    hub.close()
    assert Bundle.open(address).source == expected
    with pytest.raises(FetchError, match="unreachable"):
        Bundle.open("hf://shop/other")
    with pytest.raises(FetchError, match="unreachable"):
        push(bundle, NAME, private=True)


def test_a_wrong_token_is_said_even_if_the_bundle_is_in_the_cache(hub, bundle, monkeypatch):
    push(bundle, NAME, private=True)
    Bundle.open(f"hf://{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for call in (lambda: Bundle.open(f"hf://{NAME}"), lambda: push(bundle, NAME, private=True)):
        with pytest.raises(FetchError, match="refuses your token") as error:
            call()
        assert "hf auth login" in error.value.hint
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(FetchError, match="no repository shop/films, or none that your token may read"):
        Bundle.open(f"hf://{NAME}")


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://films",
        "hf://a/b/c",
        "hf://a/../b",
        "hf://../b",
        "hf://a/b@",
        "hf://a/b@../x",
        "hf://a/b@x y",
        "hf://a--b/c",
    ],
)
def test_a_malformed_address_is_a_usage_error(address):
    with pytest.raises(UsageError):
        Bundle.open(address)


def test_an_address_survives_being_a_path_and_a_folder_is_none(tmp_path):
    from pathlib import Path

    assert str(parse_address(Path("hf://a/b@v1"))) == "hf://a/b@v1"
    assert parse_address(tmp_path) is None
    assert parse_address("hf:films") is None


def test_a_bundle_in_the_cache_of_the_hub_is_changed_only_elsewhere(hub, bundle, tmp_path):
    push(bundle, NAME, private=True)
    with pytest.raises(StorageError, match="is not changed"):
        add_items(f"hf://{NAME}", {"n1": "New"})
    add_items(f"hf://{NAME}", {"n1": "New"}, tmp_path / "more.delrec")
    assert Bundle.open(tmp_path / "more.delrec").items.ids[-1] == "n1"
    assert Bundle.open(f"hf://{NAME}").items.ids[-1] != "n1"


def test_every_command_that_takes_a_bundle_takes_an_address(hub, bundle, tmp_path):
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    refused = run("push", bundle, NAME, **environment)
    assert refused.returncode == UsageError.exit_code
    assert refused.stderr.count("\n") == 2
    pushed = run("push", bundle, NAME, "--private", "--json", **environment)
    assert pushed.returncode == 0, pushed.stderr
    address = json.loads(pushed.stdout)["address"]
    done = run("recommend", f"hf://{NAME}", "--history", TITLES[0], "-k", "3", "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["items"]) == 3
    assert f"to pin it: {address}" in done.stderr
    (tmp_path / "users.csv").write_text("user_id,item_id,timestamp\nu1,i1,1\nu1,i2,2\n")
    calls = [
        ("score", address, tmp_path / "users.csv", "--out", tmp_path / "scored", "--workers", "1"),
    ]
    for call in calls:
        done = run(*call, **environment)
        assert done.returncode == 0, done.stderr
    done = run("catalog", "add", address, tmp_path / "users.csv", "--columns", "title=item_id", **environment)
    assert done.returncode == StorageError.exit_code
