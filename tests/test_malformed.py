"""Files that are truncated, corrupted or of another format give one clear error: no crash, no hang, no load."""

import json
import random
import subprocess
import sys

import pytest

from delrec_lite.errors import BundleError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.gguf.checks import check_gguf
from delrec_lite.runtime.manifest import MANIFEST
from tests.bundles import tiny_bundle

MODEL = "model-f32.gguf"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("intact")).bundle.folder


@pytest.fixture(scope="module")
def intact(bundle):
    return (bundle / MODEL).read_bytes()


@pytest.fixture(scope="module")
def header_end(bundle):
    return min(tensor.start for tensor in check_gguf(bundle / MODEL).tensors.values())


def test_an_intact_file_passes(bundle):
    header = check_gguf(bundle / MODEL, "llama")
    assert "token_embd.weight" in header.tensors


def test_a_file_cut_at_any_of_fifty_places_is_refused(intact, tmp_path):
    path = tmp_path / "cut.gguf"
    for n in range(50):
        path.write_bytes(intact[: len(intact) * n // 50])
        with pytest.raises(BundleError, match=r"cut\.gguf cannot be read"):
            check_gguf(path)


def test_an_empty_file_and_files_of_other_formats_are_refused(tmp_path, intact):
    path = tmp_path / "x.gguf"
    for data in (b"", b"GGUF", b"PK\x03\x04" + bytes(200), b"GGUF" + b"\xff" * 200, intact.replace(b"llama", b"mamba")):
        path.write_bytes(data)
        with pytest.raises(BundleError, match="cannot be read|is not a GGUF file"):
            check_gguf(path)


def test_the_manifest_and_the_file_must_agree(bundle):
    for architecture in ("gemma3_text", [], {}, 5):
        with pytest.raises(BundleError, match="its manifest says"):
            check_gguf(bundle / MODEL, architecture)


# Flips one bit of the header at a time, in a process of its own, and loads each file that passes the check.
LOADER = """
import json, random, sys
from pathlib import Path
from delrec_lite.errors import DelrecError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.files import sha256_of
folder, end, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model, manifest = folder / "model-f32.gguf", folder / "manifest.json"
intact, facts, rng = model.read_bytes(), json.loads(manifest.read_text()), random.Random(seed)
refused = loaded = 0
for n in range(count):
    at = rng.randrange(end)
    corrupted = bytearray(intact)
    corrupted[at] ^= 1 << rng.randrange(8)
    model.write_bytes(corrupted)
    facts["files"][model.name]["sha256"] = sha256_of(model)
    manifest.write_text(json.dumps(facts))
    print("flip", at, flush=True)
    try:
        with Recommender.load(folder, threads=1) as recommender:
            recommender.scores([[0, 1]])
        loaded += 1
    except DelrecError as error:
        assert "\\n" not in error.message, error.message
        refused += 1
print("refused", refused, "loaded", loaded)
"""


def test_bits_flipped_in_the_header_never_crash(bundle, header_end, tmp_path):
    """The hashes are corrected, so only the check of the format protects llama.cpp."""
    copy = tmp_path / "b"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-c", LOADER, copy, str(header_end), "7", "150"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stdout[-200:] + process.stderr[-2000:]
    words = process.stdout.splitlines()[-1].split()
    refused, loaded = int(words[1]), int(words[3])
    assert refused + loaded == 150
    assert refused > 75  # the others only have another title or another valid number


def test_a_corrupted_file_with_its_old_hash_is_refused(bundle, intact, tmp_path):
    rng = random.Random(3)
    copy = tmp_path / "b"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for _ in range(20):
        corrupted = bytearray(intact)
        corrupted[rng.randrange(len(intact))] ^= 1 << rng.randrange(8)
        (copy / MODEL).write_bytes(corrupted)
        with pytest.raises(BundleError, match="wrong sha256"):
            Bundle.open(copy)


@pytest.mark.parametrize("name", ["../catalog.json", "/etc/passwd", "a/b.json", "..", "", "a\\b", "a\nb"])
def test_a_manifest_cannot_reach_outside(bundle, tmp_path, name):
    copy = tmp_path / "b"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a plain file name"):
        Bundle.open(copy)
