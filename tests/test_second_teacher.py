"""`finetune.teacher_recipe`: the trained model of another recipe is a part of the target."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.special import log_softmax, softmax

from delrec_lite.errors import ConfigError
from delrec_lite.llm.taught import ModelTeacher
from delrec_lite.pipeline.second_teacher import second_teacher
from tests.tiny import dataset

SEQUENCES = [np.array([3, 4, 5, 6]), np.array([7]), np.array([1, 2])]
TAUGHT = {"teacher_weight": 0.5, "teacher_recipe": "large.yaml"}


@pytest.fixture
def taught(tiny_run, tmp_path, monkeypatch):
    """Makes a run that learns from the run ``large``, whose recipe may differ from the defaults."""
    monkeypatch.chdir(tmp_path)

    def make(runs="runs", large=None, name="large", **changes):
        recipe = tiny_run.recipe(**{"model": {"max_history": 10}, **(large or {})})
        dump = recipe.model_dump(mode="json", exclude_unset=True) | {"name": name}
        (tmp_path / "large.yaml").write_text(yaml.safe_dump(dump))
        finetune = TAUGHT | changes.pop("finetune", {})
        return tiny_run(runs=runs, model={"max_history": 10, **changes.pop("model", {})}, finetune=finetune, **changes)

    return make


def test_a_model_scores_after_each_item_as_after_the_history_until_there(tiny_run):
    built = tiny_run(model={"max_history": 10}).models.trained()
    teacher = ModelTeacher(built.model, built.prompts, len(dataset().catalog), 10)
    for sequence, scores in zip(SEQUENCES, teacher.sequence_scores_many(SEQUENCES), strict=True):
        expected = teacher.scores([sequence[: n + 1] for n in range(len(sequence))])
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in built.model.parameters())


def test_the_target_is_the_mean_of_both_and_the_other_run_is_trained_first_and_once(taught):
    run = taught()
    mixture = second_teacher(run, run.models, run.teaching, run.teaching.models)
    assert (run.folder.parent / "large" / "finetune" / "done.json").is_file()
    model = run.teaching.models.trained()
    alone = ModelTeacher(model.model, model.prompts, len(dataset().catalog), 10)
    parts = [softmax(part.scores(SEQUENCES), axis=1) for part in (run.models.teacher(), alone)]
    np.testing.assert_allclose(softmax(mixture.scores(SEQUENCES), axis=1), np.mean(parts, axis=0), rtol=1e-4)
    for whole, each in zip(mixture.sequence_scores_many(SEQUENCES), mixture.scores(SEQUENCES), strict=True):
        np.testing.assert_allclose(log_softmax(whole[-1]), log_softmax(each), rtol=1e-3, atol=1e-3)
    trained = (run.folder.parent / "large" / "finetune" / "items.safetensors").stat().st_mtime_ns
    first = json.loads((run.finetune().folder / "metrics.jsonl").read_text().splitlines()[0])
    without = taught(runs="other", finetune={"teacher_recipe": None}).finetune()
    assert json.loads((without.folder / "metrics.jsonl").read_text().splitlines()[0])["teacher"] != first["teacher"]
    assert (run.folder.parent / "large" / "finetune" / "items.safetensors").stat().st_mtime_ns == trained


def test_a_change_of_the_other_recipe_trains_again_and_none_does_not(taught):
    assert taught().finetune().computed
    again = taught()
    assert not again.finetune().computed
    assert "finetune" not in again.teaching.stages, "a finished stage asks nothing of the other run's training"
    assert taught(large={"finetune": {"seed": 5}}).finetune().computed


@pytest.mark.parametrize(
    ("large", "changes", "says"),
    [
        ({}, {"name": "r"}, "has the name of this recipe, r"),
        ({"model": {"max_history": 4}}, {}, "large.yaml has a history of 4 items, this recipe one of 10"),
        ({"finetune": TAUGHT}, {}, "has a teacher_recipe itself"),
        ({}, {"finetune": {"teacher_recipe": "none"}}, "no recipe named 'none'"),
    ],
)
def test_a_recipe_that_cannot_teach_is_refused_before_any_stage(taught, tmp_path, large, changes, says):
    with pytest.raises(ConfigError, match=says):
        taught(large=large, **changes)
    assert not list(tmp_path.glob("runs/*/teacher"))


@pytest.mark.parametrize("finetune", [{"teacher_weight": 0}, {"teacher_inside": True}])
def test_a_second_teacher_that_nothing_hears_is_refused(tiny_run, finetune):
    with pytest.raises(ValueError, match="teacher_recipe"):
        tiny_run.recipe(finetune=TAUGHT | finetune)


def test_other_data_and_other_forms_do_not_teach(taught):
    run = taught()
    prepared = run.teaching.prepare()
    run.teaching.stages["prepare"] = replace(prepared, result={**prepared.result, "fingerprint": "other"})
    with pytest.raises(ConfigError, match="large, this recipe's finetune.teacher_recipe, has another data set"):
        run.finetune()
    letters = taught(large={"model": {"max_history": 10, "verbalizer": "letter", "candidates_in_prompt": True}})
    with pytest.raises(ConfigError, match="ranks given candidates alone"):
        letters.finetune()


def test_a_sampled_softmax_does_not_hear_a_second_teacher(taught):
    with pytest.raises(ConfigError, match="scores the whole catalogue, but the softmax is computed sampled"):
        taught(model={"max_history": 10, "softmax": "sampled"}).finetune()
