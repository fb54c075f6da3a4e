"""Shipped weights are used where training would give the same, and never replace weights that were trained here."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.store import Settings, load_dataset, save_dataset
from delrec_lite.errors import DataError
from delrec_lite.hub.cache import Pulled
from delrec_lite.pipeline import reference
from delrec_lite.pipeline import run as run_module
from delrec_lite.pipeline.compact import expand, shrink
from delrec_lite.pipeline.pack import pack
from delrec_lite.pipeline.run import Run
from tests.tiny import candidates, dataset


@pytest.fixture
def shipped(tiny_run, tmp_path, monkeypatch):
    """The run whose weights are shipped for the tiny recipe."""
    first = tiny_run("first", shipped=False)
    pack(first, tmp_path / "weights")
    monkeypatch.setattr(
        run_module,
        "reference_for",
        lambda name: reference.read_reference(tmp_path / "weights") if name == "r" else None,
    )
    return first


def test_shipped_matrices_take_a_byte_a_number_and_come_back_within_half_a_step(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights = {"a": np.random.default_rng(0).normal(size=(50, 400)), "nothing": np.zeros((2, 3)), "bias": np.arange(4)}
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    save_file(weights, path)
    whole = path.stat().st_size
    shrink(path)
    assert path.stat().st_size < whole / 3.5
    assert expand(path)
    assert not expand(path)
    back = load_file(path)
    steps = np.abs(weights["a"]).max(axis=1, keepdims=True) / 127
    assert (np.abs(back["a"] - weights["a"]) <= 0.501 * steps).all()
    assert all((back[name] == weights[name]).all() for name in ("nothing", "bias"))


def shipped_stages(run):
    run.finetune()
    return [name for name in reference.STAGES if "shipped" in run.stages[name].result]


def scores(run):
    from delrec_lite.llm.forward import score_all

    built = run.models.trained()
    return score_all(built.model, built.prompts, run.dataset.test().histories, 10)


def test_shipped_weights_score_as_the_run_that_trained_them(tiny_run, shipped):
    run = tiny_run()
    assert shipped_stages(run) == ["teacher", "distill", "finetune"]
    assert run.finetune().result["loss"] == shipped.finetune().result["loss"]
    np.testing.assert_allclose(scores(run), scores(shipped), atol=5e-2)  # matrices of eight bits
    histories = run.dataset.test().histories
    first, repeated = (source.models.teacher().scores(histories) for source in (shipped, run))
    np.testing.assert_allclose(repeated, first, atol=5e-2)
    again = tiny_run("again")
    np.testing.assert_array_equal(scores(again), scores(run))


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"export": {"quant": "q8_0"}}, ["teacher", "distill", "finetune"]),
        ({"finetune": {"lr": 1e-3}}, ["teacher", "distill"]),
        ({"distill": {"lr": 1e-3}}, ["teacher"]),
        ({"model": {"soft_tokens": 4}}, ["teacher"]),
        ({"teacher": {"settings": {"epochs": 2, "hidden": 8}}}, []),
    ],
)
def test_a_changed_recipe_trains_the_affected_stages(tiny_run, shipped, changes, stages):
    assert shipped_stages(tiny_run(**changes)) == stages


def test_another_data_set_or_base_model_trains(tiny_run, shipped, monkeypatch):
    base = Run.pulled["model"]
    other_base = Pulled("tiny", base.folder, "mirror", True, {"model": "def"}, "none", 1)
    monkeypatch.setattr(Run, "pulled", {"model": other_base})
    assert shipped_stages(tiny_run()) == ["teacher"]


def test_other_validation_sets_only_keep_the_teacher(tiny_run, shipped, tmp_path):
    """Stages 1 and 2 use the candidate sets of validation; those of the test split change no weight."""
    for split, expected in (("test", ["teacher", "distill", "finetune"]), ("valid", ["teacher"])):
        resampled = sample_candidates(dataset(), split, 5, seed=9)
        data = load_dataset(tmp_path / "ring")
        sets = {name: resampled if name == split else candidates(name) for name in SPLITS}
        save_dataset(data, sets, Settings(2, 5, 3), tmp_path / "ring")
        assert shipped_stages(tiny_run(split)) == expected


def test_weights_that_were_trained_here_are_not_replaced(tiny_run, shipped):
    tiny_run(shipped=False).teacher()
    run = tiny_run()
    assert shipped_stages(run) == []


def test_training_replaces_shipped_weights(tiny_run, shipped):
    shipped_stages(tiny_run())
    assert shipped_stages(tiny_run(shipped=False)) == []
    assert shipped_stages(tiny_run()) == []


def test_shipped_weights_are_not_packed_again(tiny_run, shipped, tmp_path):
    with pytest.raises(DataError, match="copied, not trained"):
        pack(tiny_run(), tmp_path / "second")


def test_a_stage_trained_after_shipped_stages_is_packed_with_them(tiny_run, shipped, tmp_path):
    run = tiny_run(finetune={"lr": 1e-3})
    pack(run, tmp_path / "second")
    first, second = (reference.read_reference(tmp_path / name) for name in ("weights", "second"))
    assert second.stages["distill"] == first.stages["distill"]
    adapter = "finetune/adapter/adapter_model.safetensors"
    assert (second.folder / adapter).read_bytes() != (first.folder / adapter).read_bytes()
    assert second.training_inputs["finetune"]["lr"] == 1e-3
    assert (second.folder / "distill" / "soft.safetensors").read_bytes() == (
        first.folder / "distill" / "soft.safetensors"
    ).read_bytes()


def test_a_changed_file_is_refused(tiny_run, shipped, tmp_path):
    file = tmp_path / "weights" / "distill" / "soft.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="soft.safetensors"):
        tiny_run("other")


def test_the_weights_in_the_package_are_complete_and_fit_their_recipe():
    from delrec_lite.config import load_recipe, shipped_recipes

    names = [name for name in shipped_recipes() if reference.reference_for(name)]
    assert sum(f.stat().st_size for name in names for f in reference.reference_for(name).folder.rglob("*")) < 4.2e6
    for name in names:
        weights = reference.reference_for(name)
        recipe = load_recipe(name)
        data = {
            "fingerprint": weights.training_inputs["data"],
            "candidates": {"valid": weights.training_inputs["candidates"]},
        }
        facts = reference.training_inputs(recipe, data, weights.training_inputs["files"], run_module.CODE)
        assert weights.fits("finetune", facts), name
        size = sum(p.stat().st_size for p in weights.folder.rglob("*") if p.is_file())
        assert size <= 16_000_000
        assert json.loads((weights.folder / "finetune" / "finetune.json").read_text())["steps"] > 100
