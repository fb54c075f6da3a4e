"""Several quantisations in one bundle, chosen by name; and K-quants, whose blocks do not fit every width."""

import ctypes
import json
import re

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.config import ExportSection
from delrec_lite.console import Console
from delrec_lite.errors import BundleError, GateError, UsageError
from delrec_lite.export.quantise import quantise
from delrec_lite.files import sha256_of
from delrec_lite.pipeline.model_files import files_for
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.golden import FILE
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.verify import verify
from tests.conftest import export_tiny
from tests.tiny import dataset, write_base

HISTORIES = [h.tolist() for h in dataset().test().histories[:8]]
ALL = {"quant": "iq4_nl,q8_0,f16", "score_correlation": 0.5, "formats": "both", "onnx_quant": "int8_block,f16"}
FILES = ["model-iq4_nl.gguf", "model-int8_block.onnx", "model-q8_0.gguf", "model-f16.gguf", "model-f16.onnx"]


@pytest.fixture(scope="module")
def several(tiny_base, tmp_path_factory):
    return export_tiny(tiny_base, tmp_path_factory.mktemp("several") / "x.delrec", **ALL)


@pytest.fixture
def copy(several, tmp_path):
    import shutil

    return shutil.copytree(several.path, tmp_path / "x.delrec")


def scores(path, **options):
    with Recommender.load(path, 1, **options) as recommender:
        return recommender.scores(HISTORIES)


def rehash(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        facts |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_manifest_lists_the_default_model_and_the_others(several):
    manifest = json.loads((several.path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    model = manifest["model"]
    assert (model["file"], model["quant"]) == ("model-iq4_nl.gguf", "iq4_nl")
    assert model["onnx"]["file"] == "model-int8_block.onnx"
    assert [entry["file"] for entry in model["others"]] == FILES[2:]
    assert [opened.files[0] for opened in Bundle.open(several.path).models] == FILES
    assert [entry["file"] for entry in several.models] == [FILES[0], FILES[2], FILES[3], FILES[1], FILES[4]]
    assert {*FILES, *(f"{name}.data" for name in FILES if name.endswith("onnx"))} <= set(manifest["files"])
    correlations = [entry["parity"]["score_correlation"] for entry in (model, model["onnx"], *model["others"])]
    assert correlations[0] == manifest["provenance"]["parity"]["score_correlation"] == min(correlations)
    assert correlations[3] > 0.99999
    assert set(model["tensors"].values()) == set(model["tensor_types"]) == {"F32", "IQ4_NL", "Q8_0"}
    assert several.bytes == manifest["files"]["model-iq4_nl.gguf"]["bytes"]
    assert all(f"| `{name}` |" in (several.path / "README.md").read_text() for name in FILES)


def test_each_model_is_chosen_by_name_and_equals_its_export_alone(several, tiny_base, tmp_path):
    default, finest = scores(several.path), scores(several.path, quant="f16")
    assert np.abs(default - finest).max() > 1e-3
    for quant in ("iq4_nl", "q8_0", "f16"):
        alone = export_tiny(tiny_base, tmp_path / f"{quant}.delrec", quant, score_correlation=0.5)
        np.testing.assert_array_equal(scores(several.path, quant=quant), scores(alone.path))
    np.testing.assert_array_equal(default, scores(several.path, quant="iq4_nl"))
    onnx = {quant: scores(several.path, quant=quant, engine="onnxruntime") for quant in ("int8_block", "f16")}
    np.testing.assert_array_equal(onnx["int8_block"], scores(several.path, engine="onnxruntime"))
    assert np.abs(onnx["f16"] - finest).max() < np.abs(onnx["int8_block"] - finest).max()
    with pytest.raises(BundleError, match="no GGUF file"):
        Recommender.load(several.path, quant="int8_block", engine="llama.cpp")


def test_the_error_for_an_unknown_quantisation_lists_the_models(several):
    with pytest.raises(UsageError, match="no model of the quantisation 'q4_0'") as caught:
        Recommender.load(several.path, quant="q4_0")
    assert caught.value.hint == "it holds iq4_nl, int8_block, q8_0, f16"


def test_only_the_chosen_model_is_hashed_before_it_is_used(copy):
    path = copy / "model-q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    assert np.isfinite(scores(copy)).all()
    with pytest.raises(BundleError, match="model-q8_0.gguf is not the file"):
        Recommender.load(copy, quant="q8_0")
    with pytest.raises(BundleError, match="model-q8_0.gguf is not the file"):
        verify(copy, 1)
    path.write_bytes(b"short")
    with pytest.raises(BundleError, match="model-q8_0.gguf has 5 bytes"):
        Recommender.load(copy)


def test_verify_opens_every_model_and_checks_its_answers(copy):
    checked = verify(copy, 1)
    assert (checked.models, checked.unopened) == (FILES, {})
    assert checked.top10_overlap == 1.0
    assert checked.largest_difference < 0.01
    golden = json.loads((copy / FILE).read_text())
    golden["others"]["model-f16.onnx"]["scores"][3][0] += 2
    (copy / FILE).write_text(json.dumps(golden))
    rehash(copy)
    with pytest.raises(BundleError, match="model-f16.onnx gives other answers"):
        verify(copy, 1)
    golden["others"]["model-f16.onnx"]["top"].pop()
    (copy / FILE).write_text(json.dumps(golden))
    rehash(copy)
    with pytest.raises(BundleError, match="does not fit"):
        verify(copy, 1)


def test_verify_names_the_models_that_it_cannot_open(copy, tmp_path, monkeypatch):
    from delrec_lite.errors import MissingPackageError

    monkeypatch.syspath_prepend(tmp_path)  # models are opened in a child process, which has this path too
    (tmp_path / "llama_cpp.py").write_text("raise ImportError")
    checked = verify(copy, 1)
    assert checked.models == [name for name in FILES if name.endswith("onnx")]
    assert set(checked.unopened) == {name for name in FILES if name.endswith("gguf")}
    output = CliRunner().invoke(app, ["verify", str(copy), "--threads", "1"]).stdout
    assert "needs llama-cpp-python, which is not installed" in " ".join(output.split())
    (tmp_path / "onnxruntime.py").write_text("raise ImportError")
    with pytest.raises(MissingPackageError):
        verify(copy, 1)


@pytest.mark.parametrize(
    "entries",
    [5, [5], [{}], [{"format": "gguf"}], [{"format": "exe", "file": "README.md"}], [{"format": "onnx", "file": "a"}]],
)
def test_a_manifest_with_malformed_other_models_is_refused(copy, entries):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["model"]["others"] = entries
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="manifest.json does not name its other models"):
        Bundle.open(copy)


def test_a_listed_model_without_a_file_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["model"]["others"][0]["file"] = "model-q9.gguf"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"does not list model-q9\.gguf"):
        Bundle.open(copy)


def test_a_model_that_fails_the_gate_leaves_no_bundle(tiny_base, tmp_path):
    with pytest.raises(GateError, match="the iq4_nl model's scores correlate"):
        export_tiny(tiny_base, tmp_path / "x.delrec", "f16,iq4_nl", score_correlation=0.99999)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        ({}, {}, (["q8_0"], [])),
        ({"format": "both"}, {}, (["q8_0"], ["int8"])),
        ({"format": "onnx"}, {}, ([], ["int8"])),
        ({}, {"quants": ["iq4_mix", "q8_0", "int8"]}, (["iq4_mix", "q8_0"], ["int8"])),
        ({}, {"quants": ["int8"]}, ([], ["int8"])),
        ({"format": "onnx"}, {"quants": ["q4_0"]}, (["q4_0"], [])),
        ({"format": "both"}, {"quants": ["q4_0"]}, (["q4_0"], ["int8"])),
        ({}, {"quants": ["q4_0", "q4_0"], "formats": "both"}, (["q4_0"], ["int8"])),
        ({}, {"quants": ["f16"]}, (["f16"], [])),
        ({}, {"quants": ["f16"], "formats": "onnx"}, ([], ["f16"])),
        ({}, {"quants": ["f16"], "formats": "both"}, (["f16"], ["f16"])),
        ({}, {"onnx_quants": ["int4"]}, (["q8_0"], ["int4"])),
        ({}, {"quants": ["f16"], "onnx_quants": ["f16", "fp32"]}, (["f16"], ["f16", "fp32"])),
        ({}, {"quants": ["auto"], "formats": "onnx"}, ([], ["auto"])),
        ({}, {"quants": ["auto", "int8"]}, (["auto"], ["int8"])),
    ],
)
def test_recipe_and_options_decide_which_files_are_written(recipe, options, expected):
    assert files_for(ExportSection(**recipe), **options) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quants": ["q4_0", "q9"]}, "no quantisation 'q9'"),
        ({"quants": [""]}, "no quantisation ''"),
        ({"onnx_quants": ["q8_0"]}, "no quantisation for ONNX 'q8_0'"),
        ({"formats": "pickle"}, "no format 'pickle'"),
        ({"quants": ["q8_0"], "formats": "onnx"}, "q8_0: not a quantisation of onnx"),
        ({"quants": ["q8_0", "int8"], "formats": "gguf"}, "int8: not a quantisation of gguf"),
        ({"onnx_quants": ["int8"], "formats": "gguf"}, "int8: not a quantisation of gguf"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        files_for(ExportSection(), **options)


def test_several_quantisations_from_the_command_line(tiny_run, tmp_path):
    recipe, out = tmp_path / "r.yaml", tmp_path / "all.delrec"
    recipe.write_text(yaml.safe_dump(tiny_run.recipe().model_dump(mode="json", exclude_unset=True)))
    export = ["export", str(recipe), "--runs", str(tmp_path / "runs"), "--out", str(out), "--json"]
    process = CliRunner().invoke(app, [*export, "--quant", "q8_0, q4_k_m,int8"], catch_exceptions=False)
    report = json.loads(process.stdout)
    assert [entry["file"] for entry in report["models"]] == ["model-q8_0.gguf", "model-q4_k_m.gguf", "model-int8.onnx"]
    assert len(report["models"][1]["tensors"]) > len(report["models"][1]["unfit"]) > 0
    title = dataset().catalog.titles[2]
    answers = []
    for quant in ("q8_0", "q4_k_m", "int8"):
        arguments = ["recommend", str(out), "--history", title, "--quant", quant, "--json", "--threads", "1"]
        answers.append(json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)["items"])
    assert len({items[0]["score"] for items in answers}) == 3
    timed = ["bench", str(out), "--quant", "q4_k_m,int8", "-w", "cold", "-r", "1", "--threads", "1", "--json"]
    timings = json.loads(CliRunner().invoke(app, timed, catch_exceptions=False).stdout)
    assert [row["bundle"] for row in timings["results"]] == ["r q4_k_m", "r int8"]
    files = json.loads((out / "manifest.json").read_text())["files"]
    unused = files["model-q8_0.gguf"]["bytes"] + sum(files[f"model-int8.onnx{end}"]["bytes"] for end in ("", ".data"))
    assert timings["results"][0]["artifact_bytes"] == sum(facts["bytes"] for facts in files.values()) - unused
    assert timings["bundles"]["r q4_k_m"]["model_sha256"] == files["model-q4_k_m.gguf"]["sha256"]
    assert timings["results"][1]["peak_rss_bytes"] > 0
    refused = CliRunner().invoke(app, ["bench", str(out), "--quant", "q5_0", "-w", "cold"])
    assert isinstance(refused.exception, UsageError)


# K-quants.


def base_of_width(folder, width, layers=8):
    """The tiny base with another width, and enough layers for every case of Q4_K_M."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_base(folder)
    config = json.loads((folder / "config.json").read_text())
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "head_dim": width // 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**config | shape)).save_pretrained(folder)
    return folder


def types_of_llama_cpp(source, target):
    """The type that the Q4_K_M of llama.cpp gives every tensor."""
    import gguf
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}


@pytest.mark.parametrize("width", [256, 64, 128])
def test_q4_k_m_has_the_types_of_llama_cpp_and_lists_tensors_that_do_not_fit(tmp_path, width, capsys):
    settings = {"quant": "f16,q4_k_m", "score_correlation": 0.5, "console": Console()}
    bundle = export_tiny(base_of_width(tmp_path / "base", width), tmp_path / "x.delrec", **settings)
    expected = types_of_llama_cpp(bundle.path / "model-f16.gguf", tmp_path / "expected.gguf")
    entry = bundle.models[1]
    types = entry["tensors"]
    layers = {name: kind for name, kind in types.items() if name.startswith("blk.")}
    assert layers == {name: kind for name, kind in expected.items() if name.startswith("blk.")}
    assert types["output.weight"] == types["token_embd.weight"] == "Q8_0"
    assert sum(entry["tensor_types"].values()) == len(types)
    matrices = {name for name in layers if not name.endswith("norm.weight")}
    message = re.sub(r"\s+", " ", capsys.readouterr().err)
    if width == 256:
        assert "unfit" not in entry
        assert {types[name] for name in matrices} == {"Q4_K", "Q6_K"}
        assert "whole blocks" not in message
    else:
        fits = {name for name in matrices if width == 128 and "ffn_down" in name}  # rows of twice the width
        assert set(entry["unfit"]) == matrices - fits
        assert {(intended, types[name]) for name, intended in entry["unfit"].items()} == {
            ("Q4_K", "Q5_0"),
            ("Q6_K", "Q8_0"),
        }
        assert f"q4_k_m: {len(matrices - fits)} of {len(matrices)} tensors" in message
    with Recommender.load(bundle.path, 1, quant="q4_k_m") as recommender:
        assert np.isfinite(recommender.scores(HISTORIES)).all()


def test_a_tensor_of_another_type_than_requested_is_an_error(tiny_bundle, tmp_path, monkeypatch):
    from delrec_lite.errors import DelrecError
    from delrec_lite.export import quantise as module

    monkeypatch.setattr(module, "_patterns", lambda types: {})
    with pytest.raises(DelrecError, match="not Q8_0"):
        quantise(tiny_bundle / "model-f16.gguf", tmp_path / "x.gguf", "iq4_mix", 1)
