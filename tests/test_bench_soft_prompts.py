"""Prompts fitted to a frozen model: one for the next items, one for each teacher."""

import json

import pytest
import torch
import yaml

from delrec_lite.bench import soft_prompts
from delrec_lite.llm.forward import score_all
from tests.tiny import dataset, write_base


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With three layers, of which the last has a deep prompt."""
    return write_base(tmp_path_factory.mktemp("three") / "base", layers=3)


def test_a_deep_prompt_added_later_changes_nothing_until_it_is_fitted(tiny_run):
    run = tiny_run()
    built, histories = run.models.trained(), dataset().test().histories[:8]
    before = score_all(built.model, built.prompts, histories, 10)
    built.model.deepen()
    assert (score_all(built.model, built.prompts, histories, 10) == before).all()
    with torch.no_grad():
        built.model.deep += 0.5
    assert (score_all(built.model, built.prompts, histories, 10) != before).any()


def test_each_teachers_prompt_brings_the_model_nearer_to_it_and_changes_no_other_weight(tiny_run, tmp_path):
    kinds = ["sasrec", "gru4rec"]
    settings = {"hidden": 8, "epochs": 2}
    recipe = tiny_run.recipe(teacher={"kind": kinds, "settings": dict.fromkeys(kinds, settings)})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**recipe.dump(), "data": {"folder": recipe.data.folder}}))
    words = [str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs"), "--work", str(tmp_path / "work")]
    soft_prompts.main([*words, "--epochs", "3", "--lr", "0.1", "--seeds", "2", "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    near = report["divergence"]
    assert list(near) == ["as trained", *(f"{goal}, seed 2" for goal in ("the next items", *kinds))]
    for kind in kinds:
        assert near[f"{kind}, seed 2"][kind] < near["as trained"][kind]
    assert all(len(ranks["full"]) == len(dataset().test()) for ranks in report["ranks"].values())
    assert {row["against"] for row in report["comparisons"]} == {"as trained"}
