"""`verify`: a bundle as exported passes; changed files, changed answers and bundles without answers do not."""

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite import machine
from delrec_lite.cli.app import app
from delrec_lite.errors import BundleError
from delrec_lite.runtime import isolated
from delrec_lite.runtime.golden import FILE, read_golden
from delrec_lite.runtime.isolated import Limits
from delrec_lite.runtime.verify import _agreement, verify
from tests.conftest import export_tiny
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


OLD = {"cpu": "Old Xeon", "features": ["avx2", "fma"]}
NEW = {"cpu": "New Xeon", "features": ["avx2", "fma", "avx512f", "avx512_vnni"]}


def made_on(bundle, facts):
    """Let the manifest name another processor as the one of the export."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["provenance"] = {**manifest["provenance"], "machine": facts}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def runs_on(monkeypatch, facts):
    monkeypatch.setattr(machine, "cpu_name", lambda: facts["cpu"])
    monkeypatch.setattr(machine, "cpu_features", lambda: tuple(facts["features"]))


def test_it_says_which_processor_made_the_bundle_and_which_answered(tiny_bundle, monkeypatch):
    made_on(tiny_bundle, NEW)
    runs_on(monkeypatch, OLD)
    result = verify(tiny_bundle, threads=1)
    assert (result.exported_on.cpu, result.exported_on.vnni) == ("New Xeon", True)
    assert (result.answered_on.cpu, result.answered_on.vnni) == ("Old Xeon", False)
    (model,) = result.answers
    assert (model.engine, model.quant, model.top10_overlap, model.rank_agreement) == ("llama.cpp", "f16", 1.0, 1.0)
    assert model.largest_difference == result.largest_difference
    wide = {"COLUMNS": "200"}
    shown = CliRunner(env=wide).invoke(app, ["verify", str(tiny_bundle), "--threads", "1"]).stdout
    for words in ("New Xeon (VNNI)", "Old Xeon (no VNNI)", "llama.cpp f16", "in the same order"):
        assert words in shown


def test_an_old_bundle_does_not_name_its_processor(tiny_bundle):
    made_on(tiny_bundle, None)
    result = verify(tiny_bundle, threads=1)
    assert (result.exported_on.cpu, result.exported_on.vnni) == ("", None)
    assert str(result.exported_on) == "a processor that the bundle does not name"


@pytest.mark.parametrize(("here", "hint"), [(OLD, "on this machine"), (NEW, "copy the whole folder")])
def test_other_answers_on_another_processor_are_one_line(tiny_bundle, monkeypatch, here, hint):
    made_on(tiny_bundle, NEW)
    runs_on(monkeypatch, here)
    rewrite(tiny_bundle, lambda content: content.update(scores=np.add(content["scores"], 1.0).tolist()))
    with pytest.raises(BundleError) as raised:
        verify(tiny_bundle, threads=1)
    assert f"exported on New Xeon (VNNI), answered by llama.cpp on {here['cpu']}" in raised.value.message
    assert hint in raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


def test_the_agreement_of_ranks_counts_pairs():
    then = np.array([[4.0, 3.0, 2.0], [4.0, 4.0, 2.0]], np.float32)
    assert _agreement(then, then) == 1.0
    assert _agreement(-then, then) == 0.0
    now = np.array([[3.0, 4.0, 2.0], [1.0, 9.0, 0.0]], np.float32)
    assert _agreement(now, then) == 0.8  # five pairs, and one that was equal at export


def test_each_engine_is_compared(tiny_base, tmp_path):
    bundle = export_tiny(tiny_base, tmp_path / "both.delrec", formats="both").path
    result = verify(bundle, threads=1)
    assert [(model.engine, model.quant, model.stored) for model in result.answers] == [
        ("llama.cpp", "f16", True),
        ("onnxruntime", "int8", True),
    ]
    assert result.top10_overlap == min(model.top10_overlap for model in result.answers)


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


@pytest.mark.parametrize(
    ("code", "limits", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", Limits(1 << 40), r"crashed its engine \(SIGSEGV\)"),
        ("os.abort()", Limits(1 << 40), r"crashed its engine \(SIGABRT\)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Limits(1 << 40), "when memory is used up"),
        ("time.sleep(60)", Limits(1 << 40, 0.5), "no answer within 0.5 s"),
        ("resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", Limits(1 << 40, 9), "of each core"),
        ("sys.exit(3)", Limits(1 << 40), "exit code 3"),
        ("", Limits(1 << 40), "gave no answers"),
    ],
)
def test_a_model_that_crashes_or_hangs_its_engine_is_one_clear_line(tiny_bundle, monkeypatch, code, limits, words):
    monkeypatch.setattr(isolated, "CHILD", f"import os, resource, signal, sys, time\n{code}")
    with pytest.raises(BundleError, match=f"model-f16.gguf.*{words}") as raised:
        verify(tiny_bundle, 1, limits=limits)
    assert "\n" not in raised.value.message
    assert "do not serve it" in raised.value.hint


def test_a_model_that_takes_too_much_memory_is_one_clear_line(tiny_bundle):
    with pytest.raises(BundleError, match="needs more than 0.0 GB of memory|crashed its engine|cannot load"):
        verify(tiny_bundle, 1, limits=Limits(1 << 20))


def test_answers_of_another_form_are_refused(tiny_bundle, monkeypatch):
    code = "import json, sys, numpy\nnumpy.save(json.load(sys.stdin)['results'] + '/scores.npy', numpy.zeros(3))"
    monkeypatch.setattr(isolated, "CHILD", code)
    with pytest.raises(BundleError, match="answers of another form"):
        verify(tiny_bundle, 1)


def test_a_child_process_answers_as_this_one_does(tiny_bundle):
    assert verify(tiny_bundle, 1).answers == verify(tiny_bundle, 1, isolated=False).answers
