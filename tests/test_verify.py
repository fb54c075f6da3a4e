"""`verify`: a bundle as exported passes; changed files, changed answers and bundles without answers do not."""

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.errors import BundleError
from delrec_lite.runtime.golden import FILE, read_golden
from delrec_lite.runtime.verify import verify
from tests.tiny import ITEMS


def rewrite(bundle, change):
    """Change the stored requests, and correct their hash in the manifest."""
    path = bundle / FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][FILE] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_an_exported_bundle_is_verified(tiny_bundle):
    result = verify(tiny_bundle, threads=1)
    assert result.top10_overlap == 1.0
    assert result.largest_difference < 0.01
    assert result.requests == 24
    assert result.gated
    golden = read_golden(tiny_bundle, ITEMS)
    assert (np.diff(golden.scores, axis=1) <= 0).all()


def test_verify_prints_json_or_a_table(tiny_bundle):
    process = CliRunner().invoke(app, ["verify", str(tiny_bundle), "--threads", "1", "--json"])
    assert json.loads(process.stdout)["top10_overlap"] == 1.0
    process = CliRunner().invoke(app, ["verify", str(tiny_bundle), "--threads", "1"])
    assert "24 answered" in process.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda content: content.update(
                top=[row[::-1] for row in np.add(content["top"], 11).__mod__(ITEMS).tolist()]
            ),
            "differ",
        ),
        (lambda content: content.update(scores=np.add(content["scores"], 1.0).tolist()), "differ by up to 1"),
        (lambda content: content.pop("top"), "no answers"),
        (lambda content: content["top"][0].__setitem__(0, ITEMS), "does not fit"),
        (lambda content: content["top"].pop(), "does not fit"),
        (lambda content: content.update(histories=[[]] * 24), "does not fit"),
        (lambda content: content.update(targets="x"), "cannot be read"),
    ],
)
def test_other_answers_or_malformed_requests_are_refused(tiny_bundle, change, words):
    rewrite(tiny_bundle, change)
    with pytest.raises(BundleError, match=words):
        verify(tiny_bundle, threads=1)


def test_a_changed_file_is_named(tiny_bundle):
    path = tiny_bundle / "model-f16.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="model-f16.gguf"):
        verify(tiny_bundle)
