"""Shipped weights: used where training would make the same, never instead of what was trained here."""

import json

import numpy as np
import pytest

from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.store import Settings, load_dataset, save_dataset
from delrec_lite.errors import DataError
from delrec_lite.hub.cache import Pulled
from delrec_lite.pipeline import reference
from delrec_lite.pipeline import run as run_module
from delrec_lite.pipeline.pack import pack
from delrec_lite.pipeline.run import Run
from tests.tiny import candidates, dataset


@pytest.fixture
def packed(tiny_run, tmp_path, monkeypatch):
    """Weights of the tiny recipe, shipped."""
    first = tiny_run("first", shipped=False)
    pack(first, tmp_path / "weights")
    monkeypatch.setattr(
        run_module,
        "reference_for",
        lambda name: reference.read_reference(tmp_path / "weights") if name == "r" else None,
    )
    return first


def shipped_stages(run):
    run.finetune()
    return [name for name in reference.STAGES if "shipped" in run.stages[name].result]


def scores(run):
    from delrec_lite.llm.forward import score_all

    built = run.models.trained()
    return score_all(built.model, built.prompts, run.dataset.test().histories, 10)


def test_shipped_weights_score_as_the_run_that_made_them(tiny_run, packed):
    run = tiny_run()
    assert shipped_stages(run) == ["teacher", "distill", "finetune"]
    assert run.finetune().result["loss"] == packed.finetune().result["loss"]
    np.testing.assert_allclose(scores(run), scores(packed), atol=2e-2)  # half precision
    histories = run.dataset.test().histories
    first, again = (of.models.teacher().scores(histories) for of in (packed, run))
    np.testing.assert_array_equal(again, first)


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
def test_a_changed_recipe_trains_what_it_touches(tiny_run, packed, changes, stages):
    assert shipped_stages(tiny_run(**changes)) == stages


def test_another_data_set_or_base_model_trains(tiny_run, packed, monkeypatch):
    held = Run.pulled["model"]
    other = Pulled("tiny", held.folder, "there", True, {"model": "def"}, "none", 1)
    monkeypatch.setattr(Run, "pulled", {"model": other})
    assert shipped_stages(tiny_run()) == ["teacher"]


def test_other_validation_sets_keep_the_teacher_alone(tiny_run, packed, tmp_path):
    """Stage 1 reports and stage 2 chooses with their candidate sets; the test users' change no weight."""
    for split, kept in (("test", ["teacher", "distill", "finetune"]), ("valid", ["teacher"])):
        again = sample_candidates(dataset(), split, 5, seed=9)
        data = load_dataset(tmp_path / "ring")
        sets = {name: again if name == split else candidates(name) for name in SPLITS}
        save_dataset(data, sets, Settings(2, 5, 3), tmp_path / "ring")
        assert shipped_stages(tiny_run(split)) == kept


def test_what_was_trained_here_is_not_replaced(tiny_run, packed):
    tiny_run(shipped=False).teacher()
    run = tiny_run()
    assert shipped_stages(run) == []


def test_training_replaces_what_was_shipped(tiny_run, packed):
    shipped_stages(tiny_run())
    assert shipped_stages(tiny_run(shipped=False)) == []
    assert shipped_stages(tiny_run()) == []


def test_shipped_weights_are_not_packed_again(tiny_run, packed, tmp_path):
    with pytest.raises(DataError, match="copied, not trained"):
        pack(tiny_run(), tmp_path / "again")


def test_a_stage_trained_behind_shipped_ones_is_packed_with_them(tiny_run, packed, tmp_path):
    run = tiny_run(finetune={"lr": 1e-3})
    pack(run, tmp_path / "again")
    first, again = (reference.read_reference(tmp_path / name) for name in ("weights", "again"))
    assert again.stages["distill"] == first.stages["distill"]
    adapter = "finetune/adapter/adapter_model.safetensors"
    assert (again.folder / adapter).read_bytes() != (first.folder / adapter).read_bytes()
    assert again.training_inputs["finetune"]["lr"] == 1e-3
    assert (again.folder / "distill" / "soft.safetensors").read_bytes() == (
        first.folder / "distill" / "soft.safetensors"
    ).read_bytes()


def test_a_changed_file_is_refused(tiny_run, packed, tmp_path):
    file = tmp_path / "weights" / "distill" / "soft.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="soft.safetensors"):
        tiny_run("other")


def test_the_weights_in_the_package_are_whole_and_of_their_recipe():
    from delrec_lite.config import load_recipe, shipped_recipes

    found = [name for name in shipped_recipes() if reference.reference_for(name)]
    for name in found:
        held = reference.reference_for(name)
        recipe = load_recipe(name)
        data = {
            "fingerprint": held.training_inputs["data"],
            "candidates": {"valid": held.training_inputs["candidates"]},
        }
        facts = reference.training_inputs(recipe, data, held.training_inputs["files"], run_module.CODE)
        assert held.fits("finetune", facts), name
        size = sum(p.stat().st_size for p in held.folder.rglob("*") if p.is_file())
        assert size <= 16_000_000
        assert json.loads((held.folder / "finetune" / "finetune.json").read_text())["steps"] > 100
