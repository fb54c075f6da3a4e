"""Training with a softmax in blocks and a sampled one: same losses, half precision, resume, teachers, a whole run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.item_text import item_text
from delrec_lite.llm.load import load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.softmax.blocks import sums_over_blocks
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers import fit as fitting
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.teachers.fit import fit
from delrec_lite.teachers.soft_targets import SoftTargets
from delrec_lite.training import catalogue_loss
from delrec_lite.training import distill as stage1
from delrec_lite.training import finetune as stage2
from delrec_lite.training.adapters import load_finetuned
from delrec_lite.training.catalogue_loss import CatalogueLoss, teacher_distribution
from tests.resuming import killed_then_resumed
from tests.teachers import circle, tiny
from tests.tiny import ITEMS, context, dataset

TERMS = ("next_item", "teacher", "first", "together")
FINETUNE = FinetuneSection(epochs=4, tokens_per_step=100, lr=3e-3, item_lr=1e-2, rank=4, alpha=8)


def random_teacher(seed=0, kind="sasrec"):
    torch.manual_seed(seed)
    record = TEACHERS[kind]
    return Teacher(record.build(record.configure(hidden=8, max_length=4, dropout=0.0), ITEMS), ITEMS)


@pytest.fixture(scope="module")
def teachers():
    return Ensemble([random_teacher(1), random_teacher(2, "gru4rec")])


@pytest.fixture
def make(tiny_base, tmp_path):
    """Makes a context of the tiny model: its softmax, its teacher, with text and in half precision or not."""

    def make_context(softmax, teacher=None, text=False, half=False, negatives=20, out="out"):
        base = load_base("tiny", tiny_base, torch.float32)
        titles = dataset().catalog.titles
        features = item_text(base, titles, torch.ones(ITEMS, dtype=torch.bool)) if text else None
        model = ItemLM(base, titles, 4, text=features, half=half)
        prompts = compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos)
        made = context(model, prompts, tmp_path / out, teacher or random_teacher())
        return replace(made, softmax=softmax, negatives=negatives)

    return make_context


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ensemble", [False, True])
def test_soft_targets_in_parts_are_the_whole_distribution(teachers, ensemble):
    teacher = teachers if ensemble else teachers.members[0]
    inputs = [s[:9] for s in dataset().train()[:3]]
    whole = teacher_distribution(teacher, inputs, 1.5)
    parts = SoftTargets(teacher, inputs, 1.5)
    torch.testing.assert_close(
        torch.cat([parts.log_probs(0, 7), parts.log_probs(7, ITEMS)], 1), whole, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(parts.first(), whole.argmax(1))
    items = torch.arange(len(whole)) % ITEMS
    torch.testing.assert_close(parts.of(items), whole.gather(1, items[:, None])[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("softmax", ["blocks", "sampled"])
def test_all_losses_are_those_of_the_full_softmax(make, teachers, monkeypatch, softmax, ensemble):
    """In blocks of any size; sampled where every item is drawn as often as expected."""
    monkeypatch.setattr(catalogue_loss, "sums_over_blocks", lambda *args: sums_over_blocks(*args, 7))
    monkeypatch.setattr("delrec_lite.teachers.soft_targets.block_size", lambda _: 11)
    inputs = [s[:6] for s in dataset().train()[:4]]
    targets = torch.tensor(np.concatenate([s[1:7] for s in dataset().train()[:4]]))
    figures, gradients = [], []
    for name in ("full", softmax):
        stage = make(name, teachers if ensemble else None)
        stage.model.offset_out.data.normal_(generator=torch.Generator().manual_seed(1))
        losses = CatalogueLoss(stage, 100, seed=0)
        losses.draw = lambda _: catalogue_loss.Draw(np.arange(ITEMS), np.zeros(ITEMS, np.float32))
        states = torch.randn(len(targets), 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        terms = losses.terms(TERMS, states, targets, 0, inputs, 1.5)
        assert tuple(terms) == TERMS
        figures.append([term.item() for term in terms.values()])
        learned = (states, stage.model.offset_out, stage.model.log_scale)
        gradients.append(torch.autograd.grad(sum(terms.values()), learned))
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    for gradient, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_both_stages_in_blocks_end_as_with_the_full_softmax(make):
    ends = {}
    for softmax in ("full", "blocks"):
        stage = make(softmax, out=softmax)
        stage1.distill(stage, DistillSection(epochs=1, tokens_per_step=100), stage.prompts)
        stage2.finetune(stage, FINETUNE.model_copy(update={"epochs": 1.0, "teacher_weight": 0.3}))
        ends[softmax] = stage.model.soft, stage.model.offset_in, stage.model.offset_out
    for tensor, expected in zip(ends["blocks"], ends["full"], strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_a_sampled_softmax_learns_the_ring_and_is_loaded_as_saved(make, half):
    stage = make("sampled", half=half, text=half)
    split = dataset().test()
    recipe = FINETUNE.model_copy(update={"teacher_weight": 0.0, "valid_every": 1.0, "epochs": 6.0})
    report = stage2.finetune(stage, recipe)
    scores = score_all(stage.model, stage.prompts, split.histories, 10)
    assert (scores.argmax(1) == split.targets).mean() > 0.7
    assert report.valid_ndcg > 0.7
    assert stage.model.offset_in.dtype == (torch.bfloat16 if half else torch.float32)
    again = make("sampled", half=half, text=half)
    load_finetuned(again.model, stage.out)
    np.testing.assert_array_equal(score_all(again.model, again.prompts, split.histories, 10), scores)


def test_a_step_trains_the_items_that_it_reads_alone(make):
    stage = make("sampled", negatives=4)
    before = {name: getattr(stage.model, name).detach().clone() for name in ("offset_in", "offset_out")}
    recipe = FINETUNE.model_copy(update={"tokens_per_step": 16, "epochs": 16 / 300})
    read = stage2.StepItems(stage, recipe).items(0)
    assert stage.steps(recipe) == 1
    assert len(read) < ITEMS
    stage2.finetune(stage, recipe)
    for name, values in before.items():
        changed = (getattr(stage.model, name) != values).any(1).nonzero()[:, 0].numpy()
        assert len(changed)
        assert np.isin(changed, read).all()


def test_half_precision_scores_as_float32_and_shares_the_titles_of_a_tied_base(make):
    split = dataset().test()
    vectors, seen = torch.randn(ITEMS, 8), torch.arange(ITEMS) < 27
    scores = []
    for half in (False, True):
        stage = make("sampled", half=half, text=True)
        stage.model.start_from(vectors, seen)
        stage1.verbalizer_of(stage.prompts).calibrate(stage.model, stage.prompts, [s[:8] for s in dataset().train()])
        scores.append(score_all(stage.model, stage.prompts, split.histories, 10))
    assert stage.model.titles_in is None
    assert np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("half", [False, True])
def test_an_interrupted_sampled_training_ends_with_the_same_weights(make, monkeypatch, half):
    recipe = FINETUNE.model_copy(update={"epochs": 2.0, "dropout": 0.1, "valid_every": 0.7, "teacher_weight": 0.3})

    def train_in(folder):
        stage = make("sampled", half=half, out=folder)
        stage2.finetune(stage, recipe)
        return load_file(stage.out / stage2.ITEMS)

    uninterrupted = train_in("uninterrupted")
    resumed = killed_then_resumed(monkeypatch, 3, lambda: train_in("interrupted"))
    assert {"offset_in", "offset_out", "log_scale"} <= resumed.keys() == uninterrupted.keys()
    for name, tensor in uninterrupted.items():
        assert torch.equal(resumed[name], tensor), name


def test_micro_batches_of_a_sampled_step_give_the_same_weights(make):
    ends = []
    for parts in (1, 3):
        stage = make("sampled", out=str(parts))
        stage2.finetune(stage, FINETUNE.model_copy(update={"epochs": 1.0, "gradient_accumulation_steps": parts}))
        ends.append((stage.model.offset_in, stage.model.offset_out))
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-3)


def test_processes_round_alike_whatever_their_dropout(make):
    """The rounding of half precision depends on the step, and not on torch's random state."""
    tables = []
    for seed in (1, 2):
        stage = make("sampled", half=True)
        rows, _ = stage2.trained_rows(stage2.StepItems(stage, FINETUNE), {"offset_in": stage.model.offset_in}, FINETUNE)
        torch.manual_seed(seed)
        for step in range(3):
            (rows.open(step)["offset_in"] + 0.1).square().sum().backward()
            rows.step(step, 1.0)
        tables.append(rows.values["offset_in"])
    assert tables[0].any()
    assert torch.equal(*tables)


def test_a_running_mean_of_sampled_vectors_is_refused(make):
    with pytest.raises(ConfigError, match="finetune.average") as refused:
        stage2.finetune(make("sampled"), FINETUNE.model_copy(update={"average": 0.9}))
    assert "model.softmax: blocks" in refused.value.hint


def test_a_running_mean_of_sampled_vectors_is_refused_before_a_teacher_is_fitted(tiny_run, monkeypatch):
    monkeypatch.setattr("delrec_lite.pipeline.run.fit_teacher", lambda *_: pytest.fail("fitted before the check"))
    with pytest.raises(ConfigError, match="finetune.average"):
        tiny_run(model={"softmax": "sampled"}, finetune={"average": 0.9}).finetune()


@pytest.mark.parametrize("kind", TEACHERS.built_in)
@pytest.mark.parametrize("text", [False, True])
def test_a_teacher_of_any_kind_learns_from_sampled_negatives(kind, text):
    data = circle()
    features = torch.eye(len(data.catalog))[:, :6] if text else None
    teacher = fit(tiny(kind, negatives=12, epochs=16), data, QUIET, features=features)
    test = data.test()
    assert (teacher.scores(test.histories).argmax(1) == test.targets).mean() > 0.6
    assert not teacher.network.training
    assert teacher.network.step_draw is None
    assert teacher.item_vectors().shape == (len(data.catalog), 16)


def test_a_teacher_trains_the_rows_that_it_reads_alone():
    data = circle(3)
    config = tiny("sasrec", negatives=2, epochs=1, weight_decay=0.1)
    torch.manual_seed(config.seed)
    untrained = TEACHERS["sasrec"].build(config, len(data.catalog)).items.detach()
    changed = (fit(config, data, QUIET).network.items != untrained).any(1)
    assert changed.any()
    assert not changed.all()


def test_a_teacher_in_blocks_and_with_figures_in_parts_learns_the_same(monkeypatch):
    config = tiny("sasrec", epochs=2, label_smoothing=0.1)
    whole = fit(config, circle(), QUIET)
    monkeypatch.setattr("delrec_lite.teachers.contract.MOST_TEACHER_SCORES", 10)
    monkeypatch.setattr(fitting, "SCORES_AT_ONCE", 70)
    parts = fit(config, circle(), QUIET)
    torch.testing.assert_close(parts.network.items, whole.network.items, rtol=1e-3, atol=1e-4)
    assert parts.metrics["ndcg@10"] == pytest.approx(whole.metrics["ndcg@10"], abs=0.02)


def test_agreement_in_parts_of_users_is_that_of_all(make, monkeypatch):
    stage = make("full")
    whole = stage1.Agreement(stage)(stage.prompts)
    monkeypatch.setattr(stage1, "SCORES_AT_ONCE", 5 * ITEMS)
    parts = stage1.Agreement(stage)(stage.prompts)
    for name, value in vars(whole).items():
        assert getattr(parts, name) == pytest.approx(value, rel=1e-4), name


def test_a_run_with_a_sampled_softmax_is_exported(tiny_run, monkeypatch):
    """From teacher to bundle with vectors in half precision, as a large catalogue has them."""
    for module in ("delrec_lite.pipeline.model_builder", "delrec_lite.softmax.choice"):
        monkeypatch.setattr(f"{module}.in_half_precision", lambda *_: True)
    sections = {"model": {"softmax": "sampled", "negatives": 12, "item_text": "rows"}}
    run = tiny_run(**sections, teacher={"settings": {"negatives": 8, "hidden": 8}, "text": True})
    run.export()
    assert (run.bundle / "manifest.json").is_file()
    assert run.finetune().result["steps"] > 0


def test_defaults_keep_the_keys_of_finished_stages(tiny_run):
    assert "softmax" not in tiny_run.recipe().model.cache_key_fields()
    assert "negatives" in tiny_run.recipe(model={"negatives": 8}).model.cache_key_fields()
