"""A changed bundle is refused; a failed replacement keeps the old one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from delrec_lite.errors import BundleError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import TITLES
from tests.bundles import tiny_bundle as make

FILES = ["model-f32.gguf", "catalog.json", "prompt.json", "tokenizer.json"]


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path).bundle.folder


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, words, **options):
    with pytest.raises(BundleError, match=words) as error:
        Bundle.open(folder, **options)
    assert error.value.hint
    return error.value


def test_a_written_bundle_opens(folder):
    bundle = Bundle.open(folder)
    assert bundle.name == "tiny"
    assert bundle.items.titles == TITLES
    assert bundle.prompt.max_history == 10
    assert bundle.model_path.is_file()
    assert set(bundle.manifest["files"]) == set(FILES)
    assert bundle.manifest["schema"] == 1


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(folder, name):
    spoil(folder / name, lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    refused(folder, name)
    with pytest.raises(BundleError, match=name):
        Recommender.load(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_or_cut_file_and_a_folder_in_its_place_are_refused_by_name(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    refused(folder, name, verify=False)
    (folder / name).unlink()
    refused(folder, f"{name} is missing")
    (folder / name).mkdir()
    refused(folder, f"{name} is no regular file")


def link_all(folder, elsewhere):
    """Move a bundle's files away and put relative links in their places, as a snapshot in a cache of blobs has them."""
    elsewhere.mkdir()
    for n, path in enumerate(sorted(folder.iterdir())):
        path.rename(elsewhere / f"blob{n}")
        path.symlink_to(Path("..") / elsewhere.name / f"blob{n}")


def test_a_bundle_of_links_loads(folder, tmp_path):
    link_all(folder, tmp_path / "blobs")
    with Recommender.load(folder, threads=1) as recommender:
        assert recommender.recommend(TITLES[:2], k=1).items


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_link_that_leads_nowhere_or_to_no_file_says_so(folder, name, tmp_path):
    path = folder / name
    for target, words in (
        ("../gone", "a link to ../gone, leads to nothing"),
        (".", "a link to ., is no regular file"),
        (name, "cannot be read"),  # to itself
        ("/dev/zero", "is no regular file"),
    ):
        path.unlink()
        path.symlink_to(target)
        error = refused(folder, f"{name}, .*{words}|{name}.*{words}")
        assert "cp -rL" in error.hint


@pytest.mark.parametrize("verify", [True, False])
def test_a_link_brings_in_nothing_but_the_exported_file(folder, tmp_path, verify):
    """Also where hashes are not asked for: the size alone would let another file in."""
    path = folder / "catalog.json"
    other = tmp_path / "secret"
    other.write_bytes(path.read_bytes()[:-1] + b" ")
    path.unlink()
    path.symlink_to(other)
    refused(folder, "wrong sha256", verify=verify)


@pytest.mark.parametrize("name", ["catalog.json", "manifest.json"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, "no regular file")


def test_a_tokenizer_that_the_manifest_does_not_list_is_not_read(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder / "manifest.json", files={name: facts for name, facts in files.items() if name != "tokenizer.json"})
    with (
        Recommender.load(folder, threads=1) as recommender,
        pytest.raises(BundleError, match="does not list tokenizer"),
    ):
        recommender.recommend(["Purple Cactus"], allow_new=True)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files": ' * 50_000])
def test_json_nested_too_deep_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    refused(folder, "nested too deep|not JSON")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b"])
def test_a_manifest_cannot_point_outside(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder / "manifest.json", files=files | {name: {"bytes": 1, "sha256": ""}})
    refused(folder, "not a plain file name")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 99},
        {"schema": None},
        {"files": {}},
        {"files": []},
        {"files": {"catalog.json": {}}},
        {"files": dict.fromkeys(FILES, 5)},
        {"model": {}},
        {"model": None},
        {"model": {"file": "../x.gguf"}},
        {"model": {"file": "README.md"}},
    ],
)
def test_an_invalid_manifest_is_refused(folder, changes):
    edit(folder / "manifest.json", **changes)
    refused(folder, "manifest|schema|model|README")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", b"\xff\xfe"])
def test_an_unreadable_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, "manifest.json")


def test_a_missing_bundle_is_reported(tmp_path):
    refused(tmp_path / "nothing", "no bundle")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no bundle")


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": None},
        {"titles": ["one"]},
        {"popularity": "123"},
        {"popularity": [-1] * len(TITLES)},
        {"titles": [5] * len(TITLES)},
    ],
)
def test_an_inconsistent_catalogue_is_refused(folder, changes):
    edit(folder / "catalog.json", **changes)
    with pytest.raises(BundleError, match="catalog.json"):
        _ = Bundle(folder, {"model": {"file": "x"}}).items


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix": "abc"},
        {"prefix": [float("inf")]},
        {"new_item": None},
        {"new_item": {"title_prefix": " ", "input_norm": float("nan"), "scale": 1.0}},
        {"max_history": "x"},
        {"max_history": 0},
    ],
)
def test_an_invalid_prompt_is_refused(folder, changes):
    edit(folder / "prompt.json", **changes)
    with pytest.raises(BundleError, match="prompt.json"):
        _ = Bundle(folder, {"model": {"file": "x"}}).prompt


def test_a_model_that_llama_cpp_cannot_load_is_one_quiet_error(tmp_path):
    """Its hash and form are right, so only llama.cpp can tell; it must not print."""
    tiny = make(tmp_path)
    staging = tmp_path / "staging"
    tiny.bundle.folder.rename(staging)
    (staging / "manifest.json").unlink()
    spoil(staging / "model-f32.gguf", lambda b: b.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))
    facts = {"name": "bad", "provenance": {}, "licences": {}, "gated": False}
    finish_bundle(staging, tmp_path / "bad.delrec", model={"file": "model-f32.gguf"}, **facts)
    code = f"from delrec_lite import Recommender; Recommender.load({str(tmp_path / 'bad.delrec')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0].startswith("Traceback")
    assert "cannot load" in done.stderr.splitlines()[-1]
    assert "llama_model_load" not in done.stderr


def test_replacing_keeps_one_bundle_and_no_leftovers(tmp_path):
    first = make(tmp_path).bundle.folder
    before = json.loads((first / "manifest.json").read_text())["files"]
    make(tmp_path, seed=1)
    after = Bundle.open(first).manifest["files"]
    assert before["model-f32.gguf"] != after["model-f32.gguf"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.delrec"]


def test_a_failed_replacement_leaves_the_old_bundle(tmp_path, monkeypatch):
    old = make(tmp_path).bundle
    rename = Path.rename

    def no_room(self, target):
        if self.name == ".tiny.part":
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", no_room)
    monkeypatch.setattr("delrec_lite.files._exchange", lambda *_: False)  # as on systems other than Linux
    with pytest.raises(OSError, match="No space"):
        make(tmp_path, seed=1)
    assert Bundle.open(old.folder).manifest["files"] == old.manifest["files"]


def test_an_incomplete_staging_folder_becomes_no_bundle(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "catalog.json").write_text("{}")
    with pytest.raises(BundleError):
        finish_bundle(
            staging,
            tmp_path / "x.delrec",
            name="x",
            model={"file": "model.gguf"},
            provenance={},
            licences={},
            gated=False,
        )
    assert not os.path.lexists(tmp_path / "x.delrec")
