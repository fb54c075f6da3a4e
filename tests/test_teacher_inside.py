"""A model trained with the teacher inside learns what the teacher lacks, is chosen with it, and answers with it."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from delrec_lite.config import FinetuneSection
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.fusion import logsumexp
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.llm.forward import score_all
from delrec_lite.pipeline.rows import ALONE, FUSED, TRAINED
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.hybrid import WEIGHT, HybridEngine
from delrec_lite.runtime.manifest import INSIDE
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.training.finetune import finetune
from tests.tiny import ITEMS, Ring, context, dataset, make_model

RECIPE = FinetuneSection(
    epochs=6, tokens_per_step=100, lr=3e-3, item_lr=3e-2, rank=4, alpha=8, teacher_inside=True, valid_every=3
)


class HalfRing(Ring):
    """Knows what comes after the items with an even number; after the others it is as sure of a wrong item."""

    def __init__(self):
        self.dropping = False
        self.read_with_dropout = set()

    @contextmanager
    def dropping_out(self):
        self.dropping = True
        yield
        self.dropping = False

    def sequence_scores_many(self, sequences):
        self.read_with_dropout.add(self.dropping)
        out = []
        for s in sequences:
            items = np.asarray(s)
            rows = np.zeros((len(s), ITEMS), np.float32)
            rows[np.arange(len(s)), (items + np.where(items % 2, 7, 1)) % ITEMS] = 4.0
            out.append(rows)
        return out


def test_the_model_corrects_its_teacher_and_both_are_validated_together(tiny_base, tmp_path):
    model, prompts, _ = make_model(tiny_base)
    teacher = HalfRing()
    report = finetune(context(model, prompts, tmp_path, teacher), RECIPE)
    split = dataset().test()
    alone = score_all(model, prompts, split.histories, 10)
    first = (alone + teacher.scores(split.histories)).argmax(1)
    assert (first == split.targets).mean() > 0.8
    assert report.valid_hr1 > 0.8
    # With dropout in training, without in validation.
    assert teacher.read_with_dropout == {True, False}


def test_half_of_the_loss_is_that_of_the_sum(tiny_base, tmp_path):
    """A teacher that is sure of the truth leaves the sum nothing to learn, and the model alone learns all the same."""
    model, prompts, _ = make_model(tiny_base)
    sure = HalfRing()
    sure.sequence_scores_many = lambda sequences: [10 * rows for rows in Ring().sequence_scores_many(sequences)]
    finetune(context(model, prompts, tmp_path, sure), RECIPE.model_copy(update={"valid_every": 0}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["together"] < 0.01
    assert lines[-1]["next_item"] < lines[0]["next_item"] - 1
    assert [line["loss"] for line in lines] == pytest.approx(
        [(line["together"] + line["next_item"]) / 2 for line in lines], abs=1e-4
    )


def sasrec():
    torch.manual_seed(0)
    record = TEACHERS["sasrec"]
    config = record.configure(hidden=8, dropout=0.5)
    return Teacher(record.build(config, ITEMS), ITEMS)


@pytest.mark.parametrize("make", [sasrec, lambda: Ensemble([sasrec(), sasrec()])])
def test_dropout_is_on_within_the_block_alone(make):
    teacher, sequence = make(), [np.arange(9)]
    before = teacher.sequence_scores_many(sequence)[0]
    with teacher.dropping_out():
        assert np.abs(teacher.sequence_scores_many(sequence)[0] - before).max() > 1e-3
    with pytest.raises(UsageError), teacher.dropping_out():
        teacher.scores([[]])
    np.testing.assert_array_equal(teacher.sequence_scores_many(sequence)[0], before)


def test_its_bundle_answers_with_the_teacher_unless_told_otherwise(tiny_run):
    run = tiny_run(finetune={"teacher_inside": True}, export={"retriever": True})
    run.export()
    facts = Bundle.open(run.bundle).manifest["model"]
    assert facts[INSIDE] is True
    assert facts[WEIGHT] == 0.5  # the sum that was trained
    for fused, mixes in ((None, True), (True, True), (False, False)):
        with Recommender.load(run.bundle, threads=1, fused=fused) as recommender:
            assert isinstance(recommender.engine, HybridEngine) == mixes


def test_the_table_has_the_model_with_its_teacher_and_without(tiny_run):
    run = tiny_run(finetune={"teacher_inside": True}, export={"retriever": True})
    rows = {row.model: row for row in evaluate(run, fused=True, bundle=False) if row.protocol == "full"}
    assert {TRAINED, ALONE} <= rows.keys()
    assert FUSED not in rows
    built, teacher = run.models.trained(), run.models.teacher()

    def alone(histories):
        return score_all(built.model, built.prompts, histories, run.recipe.model.max_history)

    def together(histories):
        teacher_scores = teacher.scores(histories)
        return alone(histories) + teacher_scores - logsumexp(teacher_scores)

    for name, scorer in ((ALONE, alone), (TRAINED, together)):
        ranks = rank_all(scorer, run.dataset.test(), run.candidates["test"]).full
        assert rows[name].metrics["MRR"] == pytest.approx(per_user(ranks, "MRR").mean(), abs=1e-5)
    assert rows[ALONE].metrics != rows[TRAINED].metrics


def test_other_bundles_answer_alone(teacher_bundle):
    with Recommender.load(teacher_bundle[0], threads=1) as recommender:
        assert not isinstance(recommender.engine, HybridEngine)


def test_a_recipe_that_does_not_serve_the_teacher_is_refused(tiny_run):
    with pytest.raises(ValidationError, match="teacher_inside"):
        tiny_run(finetune={"teacher_inside": True}, export={"retriever": False})


def test_a_model_that_ranks_candidates_alone_has_no_teacher_inside(tiny_run):
    letters = {"verbalizer": "letter", "candidates_in_prompt": True}
    with pytest.raises(ValidationError, match="this model ranks candidates alone"):
        tiny_run.recipe(model=letters, finetune={"teacher_inside": True})
