"""Stages 1 and 2 on a tiny model: what they train, and that an interrupted run gives the same weights."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.data.types import Dataset
from delrec_lite.data.windows import windows
from delrec_lite.errors import DelrecError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.training import distill as stage1
from delrec_lite.training import finetune as stage2
from delrec_lite.training import loop
from delrec_lite.training.adapters import ADAPTER, load_finetuned
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.tasks import task_losses
from delrec_lite.training.weighting import TaskWeights
from delrec_lite.training.windows import StepPlan
from tests.resuming import killed_then_resumed
from tests.tiny import context, dataset, make_model, write_base

DISTILL = DistillSection(epochs=20, tokens_per_step=100, lr=0.05)
FINETUNE = FinetuneSection(epochs=6, tokens_per_step=100, lr=3e-3, item_lr=3e-2, rank=4, alpha=8)


def weights_digest(model):
    digest = hashlib.sha256()
    for _, p in sorted(model.lm.named_parameters()):
        digest.update(p.detach().numpy().tobytes())
    return digest.hexdigest()


def test_stage_1_trains_the_soft_prompt_and_no_weight_of_the_llm(tiny_base, tmp_path):
    model, prompts, _ = make_model(tiny_base)
    before, soft = weights_digest(model), model.soft.detach().clone()
    stage1.distill(context(model, prompts, tmp_path), DISTILL, prompts)
    assert weights_digest(model) == before
    assert not torch.equal(model.soft, soft)
    assert torch.count_nonzero(model.offset_in) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = (np.mean([line["pattern"] for line in part]) for part in (lines[:10], lines[-10:]))
    assert last < first - 0.01  # a random LLM can learn little
    assert {"pattern", "temporal"} <= lines[0].keys()
    assert not (tmp_path / loop.CHECKPOINT).exists()


def test_a_soft_prompt_between_the_layers_is_trained_saved_and_only_at_its_positions(tmp_path):
    folder = write_base(tmp_path / "base", layers=4)

    def load_deep():
        base = load_base("tiny", folder, torch.float32)
        model = ItemLM(base, dataset().catalog.titles, 4, deep=True)
        prompts = compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos)
        return model, prompts

    model, prompts = load_deep()
    before = weights_digest(model)
    stage1.distill(context(model, prompts, tmp_path), DISTILL, prompts)
    assert weights_digest(model) == before
    assert (model.deep.flatten(1).norm(dim=1) > 0).all()

    histories = dataset().test().histories
    scores = score_all(model, prompts, histories, 10)
    reloaded, _ = load_deep()
    stage1.load_soft(reloaded, tmp_path)
    np.testing.assert_array_equal(score_all(reloaded, prompts, histories, 10), scores)
    alone = np.concatenate([score_all(model, prompts, [history], 10) for history in histories])
    np.testing.assert_allclose(alone, scores, atol=1e-2 * scores.std())  # packed rows have one soft prompt
    with torch.no_grad():
        reloaded.deep.zero_()
    assert np.abs(score_all(reloaded, prompts, histories, 10) - scores).max() > 0.1 * scores.std()


@pytest.mark.parametrize("weighting", ["fixed", "gradient-norm"])
@pytest.mark.parametrize("format_name", ["items", "likelihood"])
def test_gradient_checkpointing_gives_the_same_gradients_in_a_step_of_both_tasks(tmp_path, weighting, format_name):
    """Also between the layers: the soft tokens have other positions in each task and forward pass."""
    folder = write_base(tmp_path / "base", layers=4)
    recipe = DistillSection(tokens_per_step=100, temporal_share=0.5, weighting=weighting)
    gradients, sums = [], []
    for checkpointing in (False, True):
        base = load_base("tiny", folder, torch.float32)
        model = ItemLM(base, dataset().catalog.titles, 4, deep=True)
        prompt_format = (
            PromptFormat(history="titles", verbalizer="likelihood") if format_name == "likelihood" else PromptFormat()
        )
        titles = dataset().catalog.titles
        prompts = compile_prompts(
            DOMAINS["movie"], model.vocabulary, base.encode, base.bos, "soft", prompt_format, titles
        )
        model.requires_grad_(False)
        for p in model.soft_prompt().values():
            p.requires_grad_(True)
        if checkpointing:
            enable_gradient_checkpointing(model)
        tasks = task_losses(context(model, prompts, tmp_path), recipe, 1)
        losses = [task(0)[0] for task in tasks.values()]
        assert prompts.next_prefix != prompts.temporal_prefix
        loss = TaskWeights(len(losses), weighting)(losses, model.soft)
        loss.backward()
        sums.append(loss.item())
        gradients.append({name: p.grad.clone() for name, p in model.soft_prompt().items()})
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_in_stage_1_enables_no_dropout_in_the_llm(tiny_base, tmp_path):
    """Checkpointing only changes the memory: the modules of a layer stay in evaluation mode."""
    pattern_losses = []
    for checkpointing in (False, True):
        model, prompts, _ = make_model(tiny_base)
        for layer in model.body.layers:
            layer.self_attn.attention_dropout = 0.5
        recipe = DistillSection(epochs=1, tokens_per_step=100, checkpointing=checkpointing)
        folder = tmp_path / str(checkpointing)
        stage1.distill(context(model, prompts, folder), recipe, prompts)
        pattern_losses.append(
            [json.loads(line)["pattern"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        )
    np.testing.assert_allclose(*pattern_losses, rtol=1e-5)


def test_stage_1_is_loaded_as_saved(tiny_base, tmp_path):
    model, prompts, _ = make_model(tiny_base)
    stage1.distill(context(model, prompts, tmp_path), DistillSection(epochs=1, tokens_per_step=100), prompts)
    reloaded, _, _ = make_model(tiny_base)
    stage1.load_soft(reloaded, tmp_path)
    assert torch.equal(reloaded.soft, model.soft)
    assert torch.equal(reloaded.log_scale, model.log_scale)


def test_stage_2_learns_the_ring_with_the_soft_prompt_frozen(tiny_base, tmp_path):
    model, prompts, _ = make_model(tiny_base)
    soft = model.soft.detach().clone()
    split = dataset().test()
    untrained = stage1.score_all(model, prompts, split.histories, 10).argmax(1)
    stage2.finetune(context(model, prompts, tmp_path), FINETUNE)
    first = stage1.score_all(model, prompts, split.histories, 10).argmax(1)
    assert torch.equal(model.soft, soft)
    assert (first == split.targets).mean() > 0.8
    assert (untrained == split.targets).mean() < 0.3
    reloaded, _, _ = make_model(tiny_base)
    load_finetuned(reloaded, tmp_path)
    assert (stage1.score_all(reloaded, prompts, split.histories, 10).argmax(1) == first).all()


def test_test_and_validation_items_are_never_trained_on(tiny_base, tmp_path):
    """Two data sets that differ only in held-out items give the same weights."""
    data = dataset()
    changed_sequences = tuple(np.concatenate([s[:-2], [0, 0]]) for s in data.sequences)
    offsets = []
    for name, sequences in (("a", data.sequences), ("b", changed_sequences)):
        changed = Dataset(data.name, data.catalog, data.user_ids, sequences, "x")
        model, prompts, _ = make_model(tiny_base)
        short = FinetuneSection(epochs=0.5, tokens_per_step=100)
        stage2.finetune(context(model, prompts, tmp_path / name, data=changed), short)
        offsets.append(model.offset_in.detach().clone())
    assert torch.equal(*offsets)


WITH_VALIDATION = FinetuneSection(
    epochs=3, tokens_per_step=100, lr=3e-3, item_lr=3e-2, rank=4, alpha=8, valid_every=0.5, patience=2
)


def finetune_tiny(tiny_base, folder, recipe=WITH_VALIDATION):
    model, prompts, _ = make_model(tiny_base)
    report = stage2.finetune(context(model, prompts, folder), recipe)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return report, lines, load_file(folder / stage2.ITEMS)["offset_in"]


def test_validation_keeps_the_weights_that_rank_best(tiny_base, tmp_path, monkeypatch):
    figures = iter([0.2, 0.9, 0.3, 0.4, 0.8, 0.7])
    offsets_at_validation = []

    def measure(training_context, _teacher_inside):
        offsets_at_validation.append(training_context.model.offset_in.detach().clone())
        return {"valid_ndcg@10": next(figures), "valid_hr@1": 0.5}

    monkeypatch.setattr(stage2, "_validation_metrics", measure)
    report, lines, offsets = finetune_tiny(tiny_base, tmp_path)
    steps = [line["step"] for line in lines if "valid_ndcg@10" in line]
    assert report.best_step == steps[1] + 1
    assert report.valid_ndcg == 0.9
    assert torch.equal(offsets, offsets_at_validation[1])
    assert len(steps) == 4  # the best and two more, which were not better
    assert lines[-1]["step"] == steps[-1] < report.steps - 1
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / loop.BEST).exists()


def test_validation_measures_the_trained_model_and_does_not_change_training(tiny_base, tmp_path):
    report, lines, _ = finetune_tiny(tiny_base, tmp_path / "with")
    ndcg = [line["valid_ndcg@10"] for line in lines if "valid_ndcg@10" in line]
    assert report.valid_ndcg == max(ndcg) > ndcg[0] + 0.1
    _, without, _ = finetune_tiny(
        tiny_base, tmp_path / "without", WITH_VALIDATION.model_copy(update={"valid_every": 0.0})
    )
    assert [line["loss"] for line in lines] == [line["loss"] for line in without[: len(lines)]]


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_an_interrupted_run_ends_with_the_same_weights(tiny_base, tmp_path, monkeypatch, stage):
    def train_stage(folder):
        model, prompts, _ = make_model(tiny_base)
        if stage == "distill":
            recipe = DistillSection(epochs=2, tokens_per_step=100)
            stage1.distill(context(model, prompts, folder), recipe, prompts)
            return load_file(folder / stage1.SOFT)
        recipe = FinetuneSection(epochs=2, tokens_per_step=100, dropout=0.1, valid_every=0.7, average=0.9)
        stage2.finetune(context(model, prompts, folder), recipe)
        return load_file(folder / stage2.ITEMS) | load_file(folder / ADAPTER / "adapter_model.safetensors")

    uninterrupted = train_stage(tmp_path / "uninterrupted")
    resumed = killed_then_resumed(monkeypatch, 3, lambda: train_stage(tmp_path / "interrupted"))
    assert resumed.keys() == uninterrupted.keys()
    for name, tensor in uninterrupted.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "interrupted" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps)))


def test_the_mean_of_the_weights_is_measured_and_kept(tmp_path):
    p = torch.nn.Parameter(torch.zeros(()))
    measured_values, values = [], []
    decay = 0.5

    def loss_of(step):
        values.append(p.item())  # training continues from the weights, not from their mean
        return (p - 1.0) ** 2, {}

    def measure():
        measured_values.append(p.item())
        return {"valid_x": float(len(measured_values))}  # the last is the best

    report = loop.train(
        [loop.Group({"p": p}, 0.1)],
        loss_of,
        loop.Schedule(20, 0),
        tmp_path,
        QUIET,
        "",
        0,
        validation=loop.Validation(measure, every=10, patience=5),
        average=decay,
    )
    mean = 0.0
    for step, value in enumerate(values[1:11]):
        share = min(decay, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * value
    assert measured_values[0] == pytest.approx(mean)
    assert values[10] > measured_values[0] > 0
    assert report["best_step"] == 20
    assert p.item() == pytest.approx(measured_values[1])


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    p = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(DelrecError, match="not a number"):
        loop.train(
            [loop.Group({"p": p}, 0.1)],
            lambda _: (p * float("nan"), {}),
            loop.Schedule(3, 0),
            tmp_path,
            QUIET,
            "",
            0,
        )


def test_windows_contain_every_pair_of_neighbours_once():
    sequences = [np.arange(23), np.arange(100, 104), np.array([7])]
    for epoch in range(5):
        cut = windows(sequences, 5, np.random.default_rng(epoch))
        assert max(len(w) for w in cut) <= 6
        steps = sorted((int(a), int(b)) for w in cut for a, b in zip(w, w[1:], strict=False))
        assert steps == [(i, i + 1) for i in range(22)] + [(100, 101), (101, 102), (102, 103)]


def test_a_step_does_not_depend_on_earlier_calls():
    plan, other_plan = (StepPlan(dataset().train(), 6, 40, seed=1) for _ in range(2))
    step_9 = [w.tolist() for w in plan.at(9)]
    assert [w.tolist() for w in plan.at(2)] == [w.tolist() for w in other_plan.at(2)]
    assert [w.tolist() for w in plan.at(9)] == step_9


def test_a_data_set_smaller_than_a_step_is_one_step():
    plan = StepPlan([np.arange(5)], 3, 1000, seed=0)
    assert sum(len(w) - 1 for w in plan.at(0)) == 4
    assert sum(len(w) - 1 for w in plan.at(3)) == 4


def test_the_weight_of_the_teacher_falls_at_the_end():
    recipe = FinetuneSection(teacher_weight=0.5, teacher_until=0.6)
    shares = [stage2.teacher_weight(recipe, share) for share in (0.0, 0.6, 0.8, 1.0)]
    assert shares == pytest.approx([0.5, 0.5, 0.25, 0.0])
    assert stage2.teacher_weight(FinetuneSection(teacher_weight=0.3), 1.0) == 0.3
