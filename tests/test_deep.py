"""A deep soft prompt, with vectors between the layers: the bundle computes what was trained."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.errors import BundleError
from delrec_lite.export.parity import compare_scores
from delrec_lite.files import sha256_of
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import DEEP, MANIFEST
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.families import family, scramble
from tests.tiny import dataset, make_model, write_base

HISTORIES = dataset().test().histories


def trained(folder):
    """A model with random vectors between its layers, and its scores."""
    model_parts = make_model(folder, deep=True)
    scramble(model_parts[0])
    torch.manual_seed(5)
    with torch.no_grad():
        model_parts[0].deep.copy_(torch.randn_like(model_parts[0].deep) * 3)
    return model_parts, score_all(model_parts[0], model_parts[1], HISTORIES, 10)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With four layers: a deep prompt has vectors before the third and the fourth."""
    return write_base(tmp_path_factory.mktemp("four") / "base", layers=4)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    model, scores = trained(write_base(folder / "base", layers=5))
    return export_tiny(None, folder / "x.delrec", "f16,q8_0", model, prune_vocab=True).path, scores, model


def rewritten(path, target, vectors):
    """A copy of the bundle with other vectors (none for None) and a matching manifest."""
    copy = shutil.copytree(path, target)
    manifest = json.loads((copy / MANIFEST).read_text())
    if vectors is None:
        (copy / DEEP).unlink()
        del manifest["files"][DEEP]
    else:
        np.save(copy / DEEP, vectors)
        manifest["files"][DEEP] = {"sha256": sha256_of(copy / DEEP), "bytes": (copy / DEEP).stat().st_size}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def test_the_bundle_scores_as_trained_and_not_without_the_vectors(deep, tmp_path):
    path, scores, _ = deep
    for quant in ("f16", "q8_0"):
        with Recommender.load(path, threads=1, quant=quant) as recommender:
            parity = compare_scores(scores, recommender.scores(HISTORIES))
        assert parity.score_correlation > (0.9999 if quant == "f16" else 0.99)
    with Recommender.load(rewritten(path, tmp_path / "y.delrec", None), threads=1) as recommender:
        assert compare_scores(scores, recommender.scores(HISTORIES)).score_correlation < 0.998


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "phi3", "gemma3"])
def test_other_families_add_the_vectors_before_the_same_layers(tmp_path, kind):
    model, scores = trained(family(tmp_path / "base", kind, num_hidden_layers=4))
    assert len(model[0].deep) == 2
    exported = export_tiny(None, tmp_path / "x.delrec", "f16", model, prune_vocab=False)
    with Recommender.load(exported.path, threads=1) as recommender:
        assert compare_scores(scores, recommender.scores(HISTORIES)).score_correlation > 0.9999


def test_the_cached_prompt_state_depends_on_the_vectors(deep, tmp_path, monkeypatch):
    from delrec_lite.runtime.engines import prompt_state

    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prompt_state, "MIN_BYTES", 0)
    path, _, _ = deep
    negated = rewritten(path, tmp_path / "y.delrec", np.load(path / DEEP) * np.float16(-1))
    scores = []
    for folder in (path, negated, path, negated):
        with Recommender.load(folder, threads=1) as recommender:
            scores.append(recommender.scores(HISTORIES))
    np.testing.assert_array_equal(scores[0], scores[2])
    np.testing.assert_array_equal(scores[1], scores[3])
    assert np.abs(scores[0] - scores[1]).max() > 0.01


def test_added_items_keep_the_vectors(deep, tmp_path):
    path, _, _ = deep
    more = add_items(path, {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec").folder
    with Recommender.load(path, threads=1) as before, Recommender.load(more, threads=1) as after:
        # The state that scores the added item comes from the same evaluation, which llama.cpp then computes in other
        # shapes: the difference is that of F16.
        np.testing.assert_allclose(after.scores(HISTORIES)[:, :-1], before.scores(HISTORIES), atol=0.03)


def test_vectors_that_do_not_fit_are_refused(deep, tmp_path):
    path, _, _ = deep
    valid = np.load(path / DEEP)
    broken = [valid[:-1], valid[:, :-1], valid[..., :-1], valid.astype(np.float32), valid * np.float16(np.inf)]
    for n, vectors in enumerate(broken):
        with pytest.raises(BundleError, match=DEEP):
            Recommender.load(rewritten(path, tmp_path / f"{n}.delrec", vectors), threads=1)


def test_the_readme_shows_no_runtime_without_deep_prompts(deep):
    path, _, _ = deep
    text = (path / "README.md").read_text()
    assert "deep-prompt.npy" in text
    assert "create_completion" not in text
    assert Bundle.open(path).manifest["model"]["soft_layers"] == "all"


def test_an_onnx_file_has_the_vectors_in_its_prefix(deep, tmp_path):
    import onnxruntime

    _, scores, model = deep
    exported = export_tiny(None, tmp_path / "x.delrec", model=model, formats="onnx", onnx_quant="fp32").path
    with Recommender.load(exported, threads=1) as recommender:
        assert compare_scores(scores, recommender.scores(HISTORIES)).score_correlation > 0.9999
    session = onnxruntime.InferenceSession(exported / "model-fp32.onnx")  # and in any runtime
    onnx_scores = session.run(["scores"], {"items": HISTORIES[0][None, -10:]})[0]
    np.testing.assert_allclose(onnx_scores[0], scores[0], atol=0.02)


def test_a_deep_recipe_is_trained_exported_and_loaded(tiny_run):
    run = tiny_run(model={"soft_layers": "all"}, distill={"lr": 0.3})
    learned = load_file(run.distill().folder / "soft.safetensors")["deep"].numpy()
    assert learned.shape == (2, 3, 64)  # before the third and the fourth layer, of three soft tokens
    assert (np.linalg.norm(learned, axis=2) > 0.1).all()
    run.export()
    with Recommender.load(run.bundle, threads=1) as recommender:
        np.testing.assert_allclose(recommender.bundle.deep, learned, rtol=1e-3, atol=1e-6)
