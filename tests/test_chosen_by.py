"""Many validation users choose by the whole catalogue, few by the figure among candidates."""

import json

import pytest

from delrec_lite.config import FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.evaluation import choosing
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.fit import CHOOSES, METRICS, fit
from delrec_lite.training.finetune import finetune
from delrec_lite.training.loop import METRICS as STEPS
from tests.tiny import context, dataset, make_model


@pytest.mark.parametrize(("many", "chooses"), [(5, "ndcg@10"), (5000, CHOOSES)])
def test_a_teacher_keeps_the_epoch_with_the_best_figure(tmp_path, monkeypatch, many, chooses):
    monkeypatch.setattr(choosing, "MANY_USERS", many)
    config = TEACHERS["sasrec"].configure(hidden=8, epochs=12, batch=8, lr=0.01)
    teacher = fit(config, dataset(), QUIET, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert teacher.metrics["epoch"] == max(lines, key=lambda line: line[chooses])["epoch"]


@pytest.mark.parametrize(("many", "first"), [(5, "valid_full_ndcg@10"), (5000, "valid_ndcg@10")])
def test_stage_2_is_chosen_by_its_first_figure(tiny_base, tmp_path, monkeypatch, many, first):
    monkeypatch.setattr(choosing, "MANY_USERS", many)
    model, prompts, _ = make_model(tiny_base)
    recipe = FinetuneSection(epochs=1, tokens_per_step=100, valid_every=0.5)
    finetune(context(model, prompts, tmp_path), recipe)
    figures = [json.loads(line) for line in (tmp_path / STEPS).read_text().splitlines()]
    validated = next(line for line in figures if any(name.startswith("valid_") for name in line))
    assert next(name for name in validated if name.startswith("valid_")) == first
