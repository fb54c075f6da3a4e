"""Adapters: each kind learns, resumes exactly, reloads, merges; micro-batches; 8-bit optimiser states."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.config import FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError, OutOfMemoryError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.precision import merged
from delrec_lite.training import finetune as stage2
from delrec_lite.training import loop
from delrec_lite.training.adapters import ADAPTER, ITEMS, load_finetuned
from tests.resuming import killed_then_resumed
from tests.tiny import context, dataset, make_model

KINDS = ("lora", "dora", "adalora")


class NoTeacher:
    pass


def recipe(**changes):
    settings = {"epochs": 4, "tokens_per_step": 100, "lr": 5e-3, "item_lr": 1e-3, "rank": 4, "alpha": 8}
    return FinetuneSection(**{**settings, "dropout": 0.1, "modules": "qv", **changes})


def tuned(tiny_base, folder, **changes):
    model, prompts, base = make_model(tiny_base)
    stage2.finetune(context(model, prompts, folder, NoTeacher()), recipe(**changes))
    return model, prompts, base


def written(folder):
    return load_file(folder / ITEMS) | load_file(folder / ADAPTER / "adapter_model.safetensors")


def losses(folder):
    return [json.loads(line)["next_item"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_reloads_and_merges(tiny_base, tmp_path, kind):
    model, prompts, _ = tuned(tiny_base, tmp_path, adapter=kind)
    step_losses = losses(tmp_path)
    assert np.mean(step_losses[-3:]) < np.mean(step_losses[:3]) - 0.1
    histories = dataset().test().histories
    scores = score_all(model, prompts, histories, 10)
    reloaded, _, _ = make_model(tiny_base)
    untouched = score_all(reloaded, prompts, histories, 10)
    load_finetuned(reloaded, tmp_path)
    np.testing.assert_allclose(score_all(reloaded, prompts, histories, 10), scores, atol=1e-5)
    model.lm = merged(model.lm)
    assert not any("lora" in name for name, _ in model.lm.named_parameters())
    np.testing.assert_allclose(score_all(model, prompts, histories, 10), scores, atol=2e-4)
    assert np.abs(scores - untouched).max() > 0.01
    assert set(written(tmp_path)) > {"offset_in"}


def test_only_the_chosen_modules_get_an_adapter(tiny_base, tmp_path):
    for modules, expected in (("qv", {"q_proj", "v_proj"}), ("attention", {f"{c}_proj" for c in "qkvo"})):
        tuned(tiny_base, tmp_path / modules, modules=modules, epochs=0.1)
        names = load_file(tmp_path / modules / ADAPTER / "adapter_model.safetensors")
        assert {name.split(".")[-3] for name in names} == expected


def test_adalora_ends_with_the_configured_rank(tiny_base, tmp_path):
    tuned(tiny_base, tmp_path, adapter="adalora", epochs=6)
    tensors = load_file(tmp_path / ADAPTER / "adapter_model.safetensors")
    nonzero_ranks = [int((t != 0).sum()) for name, t in tensors.items() if "lora_E" in name]
    assert [len(t) for name, t in tensors.items() if "lora_E" in name] == [6] * 4
    assert 0 < sum(nonzero_ranks) <= 4 * 4


def test_adalora_needs_steps_to_plan_its_ranks(tiny_base, tmp_path):
    with pytest.raises(ConfigError, match="plan its ranks"):
        tuned(tiny_base, tmp_path, adapter="adalora", epochs=0.1, tokens_per_step=1000)


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"adapter": "dora"}, 3),
        ({"adapter": "adalora"}, 5),  # while ranks are chosen
        ({"adapter": "adalora"}, 9),  # after the last choice
        ({"gradient_accumulation_steps": 3, "checkpointing": True}, 3),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(tiny_base, tmp_path, monkeypatch, changes, at):
    tuned(tiny_base, tmp_path / "unbroken", **changes)
    assert len(losses(tmp_path / "unbroken")) > at
    killed_then_resumed(monkeypatch, at, lambda: tuned(tiny_base, tmp_path / "broken", **changes))
    unbroken, resumed = written(tmp_path / "unbroken"), written(tmp_path / "broken")
    assert unbroken.keys() == resumed.keys()
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    assert losses(tmp_path / "unbroken") == losses(tmp_path / "broken")


@pytest.mark.parametrize(
    "changes", [{"gradient_accumulation_steps": 3}, {"checkpointing": True}, {"gradient_accumulation_steps": 40}]
)
def test_micro_batches_and_checkpointing_leave_the_losses_unchanged(tiny_base, tmp_path, changes):
    """40 micro-batches are more than a step has windows."""
    fixed = {"dropout": 0.0, "epochs": 2}
    tuned(tiny_base, tmp_path / "whole", **fixed)
    tuned(tiny_base, tmp_path / "other", **fixed, **changes)
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(tmp_path / "whole"), atol=2e-3)


def test_checkpointing_keeps_fewer_activations(tiny_base):
    from delrec_lite.llm.forward import read_states, window_segment
    from delrec_lite.training.memory import enable_gradient_checkpointing

    def saved_bytes(checkpointing):
        model, prompts, _ = make_model(tiny_base)
        model.requires_grad_(False)
        model.soft.requires_grad_(True)
        if checkpointing:
            enable_gradient_checkpointing(model)
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            read_states(model, prompts.next_prefix, [window_segment(prompts, dataset().sequences[0])])
        return total

    assert saved_bytes(True) < 0.5 * saved_bytes(False)


def test_the_paged_optimiser_is_refused_without_cuda(tiny_base, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(ConfigError, match="needs a CUDA card"):
        tuned(tiny_base, tmp_path, optimiser="paged_adamw_8bit")


def test_8_bit_optimiser_states_are_resumed(tmp_path, monkeypatch):
    """Bitsandbytes' own layout of states, here on the CPU, where it does not page."""
    from bitsandbytes.optim import AdamW8bit

    monkeypatch.setattr(loop, "make_optimiser", lambda name, groups, device: AdamW8bit(groups, weight_decay=0.0))
    generator = torch.Generator().manual_seed(0)
    start, target = (torch.randn(96, 64, generator=generator) for _ in range(2))

    def go(folder):
        p, q = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[:3].clone())
        groups = [loop.Group({"p": p}, 0.05), loop.Group({"q": q}, 0.05)]

        def loss_of(step):
            return (p - target).square().mean() + (q - target[:3]).square().mean() * (1 + step % 3), {}

        loop.train(groups, loss_of, loop.Schedule(8, 0.0), folder, QUIET, "", 0)
        return p.detach(), q.detach()

    unbroken = go(tmp_path / "a")
    resumed = killed_then_resumed(monkeypatch, 4, lambda: go(tmp_path / "b"))
    for expected, tensor in zip(unbroken, resumed, strict=True):
        torch.testing.assert_close(expected, tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_an_out_of_memory_error_names_the_settings_to_change(tmp_path, error):
    p = torch.nn.Parameter(torch.ones(()))

    def loss_of(_):
        raise error

    with pytest.raises(OutOfMemoryError) as caught:
        loop.train([loop.Group({"p": p}, 0.1)], loss_of, loop.Schedule(3, 0), tmp_path, QUIET, "stage 2", 0)
    assert "gradient_accumulation_steps" in caught.value.hint
    assert "stage 2" in caught.value.message


def test_other_errors_are_raised_unchanged(tmp_path):
    p = torch.nn.Parameter(torch.ones(()))

    def loss_of(_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        loop.train([loop.Group({"p": p}, 0.1)], loss_of, loop.Schedule(3, 0), tmp_path, QUIET, "", 0)
