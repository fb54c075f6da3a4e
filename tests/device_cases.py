"""A card computes what the CPU computes: every stage on another device, and nothing mixed with the CPU's tensors.

Run by ``tests/test_devices.py`` in a process of their own, on the device that ``DELREC_TEST_DEVICE`` names.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.llm import precision
from delrec_lite.llm.load import load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.pipeline.model_builder import ModelBuilder
from delrec_lite.pipeline.rows import TRAINED
from delrec_lite.pipeline.table import evaluate
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.fit import fit
from delrec_lite.training import distill as stage1
from delrec_lite.training import finetune as stage2
from delrec_lite.training.adapters import ADAPTER
from tests.resuming import killed_then_resumed
from tests.strict_device import NAME, strict_device
from tests.tiny import ITEMS, context, dataset, write_base

# A GPU sums in another order.
ATOL = {NAME: 1e-5, "cuda": 2e-2}


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With three layers: a deep prompt has vectors before the third."""
    return write_base(tmp_path_factory.mktemp("three") / "base", layers=3)


@pytest.fixture
def device(monkeypatch):
    name = os.environ.get("DELREC_TEST_DEVICE", NAME)
    if name == NAME:
        strict_device()
        move = PreTrainedModel.to

        def keep_tied(model, *args, **settings):
            """On the strict device a moved parameter is a new object: tied modules must be tied again."""
            moved = move(model, *args, **settings)
            moved.tie_weights()
            return moved

        monkeypatch.setattr(PreTrainedModel, "to", keep_tied)
    with sdpa_kernel(SDPBackend.MATH):  # the same attention on both sides
        yield name


def test_the_strict_device_refuses_mixed_devices_as_cuda_does(device):
    on_cpu, on_device = torch.ones(2, 2), torch.ones(2, 2).to(device)
    mixtures = {
        "product": lambda: on_cpu @ on_device,
        "sum": lambda: on_device + on_cpu,
        "index": lambda: on_cpu[on_device[0].long()],
        "values": lambda: on_device.index_put_((torch.tensor([0]),), on_cpu[0]),
        "numpy": lambda: on_device.numpy(),
        "array": lambda: np.asarray(on_device),
    }
    for mixture in mixtures.values():
        with pytest.raises((RuntimeError, TypeError)):
            mixture()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=device, generator=torch.Generator())
    assert (on_device * torch.tensor(2.0))[torch.tensor([1])].tolist() == [[2.0, 2.0]]  # as a card allows


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "caser", "esasrec"])
def test_a_teacher(device, kind):
    config = TEACHERS[kind].configure(hidden=8, max_length=8, epochs=2, dropout=0.0)
    histories = dataset().test().histories
    on_cpu, on_device = (fit(config, dataset(), QUIET, device=where) for where in ("cpu", device))
    np.testing.assert_allclose(on_device.scores(histories), on_cpu.scores(histories), atol=ATOL[device])
    moved = Teacher(TEACHERS[kind].build(config, ITEMS).to(device), ITEMS)
    moved.network.load_state_dict(on_cpu.network.state_dict())
    np.testing.assert_allclose(moved.scores(histories), on_cpu.scores(histories), atol=ATOL[device])
    for a, b in zip(moved.sequence_scores_many(histories), on_cpu.sequence_scores_many(histories), strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL[device])
    np.testing.assert_array_equal(moved.item_vectors(), on_cpu.item_vectors())


def on_both(tiny_run, tiny_base, device, monkeypatch, **sections):
    """Runs of the same recipe, on the CPU and on the device."""
    for where in ("cpu", device):

        def base(models, dtype=None, whole=False, at=where):
            return load_base("tiny", tiny_base, dtype or models.precision, at, init_seed=models.weights_seed)

        monkeypatch.setattr(ModelBuilder, "base", base)
        monkeypatch.setattr(precision, "device_for", lambda choice, at=where: at)
        yield tiny_run(runs=where, **sections)


FORMS = {
    "items": {},
    "titles": {"model": {"history": "titles"}},
    "letters": {
        "model": {
            "history": "titles",
            "verbalizer": "letter",
            "candidates_in_prompt": True,
            "soft_start": "words",
            "item_start": "titles",
        },
        "distill": {"pattern_loss": "top1"},
    },
    "likelihood": {"model": {"verbalizer": "likelihood"}},
    "deep": {"model": {"soft_layers": "all"}},
    "random": {
        "model": {"weights": "random", "item_start": "random", "pattern_prompt": "none"},
        "distill": {"epochs": 0.0},
        "finetune": {"adapter": "full"},
    },
}


SLOW = ("titles", "likelihood", "random")


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow) if form in SLOW else form for form in FORMS]
)
def test_a_run_from_its_teacher_to_its_table(tiny_run, tiny_base, device, monkeypatch, form):
    """Both stages with validation, merge, export past its gate, and the rows of the table, zero-shot too."""
    sections = dict(FORMS[form])
    if form != "likelihood":  # a forward for each question
        sections["finetune"] = sections.get("finetune", {}) | {"valid_every": 0.2}
    outputs = []
    for run in on_both(tiny_run, tiny_base, device, monkeypatch, **sections):
        rows = evaluate(run, zero_shot=form == "items")
        vectors = load_file(run.distill().folder / "soft.safetensors")
        vectors |= load_file(run.finetune().folder / "items.safetensors")
        ranks = json.loads((run.folder / "ranks.json").read_text())
        outputs.append((rows, vectors, ranks, json.loads((run.bundle / "manifest.json").read_text())["model"]))
    (rows, vectors, ranks, model), (device_rows, device_vectors, device_ranks, device_model) = outputs
    assert [(row.model, row.protocol) for row in device_rows] == [(row.model, row.protocol) for row in rows]
    assert vectors.keys() == device_vectors.keys()
    for name, tensor in vectors.items():
        torch.testing.assert_close(device_vectors[name], tensor, atol=ATOL[device], rtol=0, msg=name)
    for name, of_model in ranks.items():
        equal_share = np.mean(np.array(of_model["sampled"]) == np.array(device_ranks[name]["sampled"]))
        assert equal_share > (0.95 if device == NAME else 0.7), name
    assert TRAINED in ranks
    assert device_model["soft_words"] == model["soft_words"]


def load(folder, device, dtype=torch.float32):
    base = load_base("tiny", folder, dtype, device)
    model = ItemLM(base, dataset().catalog.titles, 4, deep=True)
    return model, compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos)


def distilled(model, prompts, folder, softmax="auto", **changed):
    recipe = DistillSection(epochs=1, tokens_per_step=100, **changed)
    torch.manual_seed(0)
    sasrec = TEACHERS["sasrec"]
    teacher = Teacher(sasrec.build(sasrec.configure(hidden=8, max_length=8), ITEMS), ITEMS)
    made = replace(context(model, prompts, folder, teacher), softmax=softmax, negatives=20)
    stage1.distill(made, recipe, prompts)
    return load_file(folder / stage1.SOFT)


def finetuned(model, prompts, folder, softmax="auto", **changed):
    settings = {"epochs": 2, "tokens_per_step": 100, "rank": 4, "alpha": 8, "valid_every": 0.7, "average": 0.9}
    recipe = FinetuneSection(**settings | changed)
    stage2.finetune(replace(context(model, prompts, folder), softmax=softmax, negatives=20), recipe)
    adapter = folder / ADAPTER / "adapter_model.safetensors"
    return load_file(folder / stage2.ITEMS) | load_file(adapter)


STAGES = {
    "stage 1": (distilled, {}),
    "gradient norms": (distilled, {"weighting": "gradient-norm"}),
    "stage 1, sampled": (distilled, {"softmax": "sampled"}),
    "recomputed": (distilled, {"checkpointing": True}),
    "lora": (finetuned, {"gradient_accumulation_steps": 2}),
    "in blocks": (finetuned, {"softmax": "blocks"}),
    "sampled": (finetuned, {"softmax": "sampled", "average": 0.0}),
    "dora": (finetuned, {"adapter": "dora"}),
    "adalora": (finetuned, {"adapter": "adalora", "epochs": 5, "valid_every": 2.0}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_resumes_to_the_weights_of_the_cpu(tiny_base, tmp_path, device, monkeypatch, stage):
    make, settings = STAGES[stage]
    expected = make(*load(tiny_base, "cpu"), tmp_path / "cpu", **settings)
    resumed = killed_then_resumed(monkeypatch, 2, lambda: make(*load(tiny_base, device), tmp_path / "card", **settings))
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, atol=ATOL[device], rtol=0, msg=name)


def test_bf16_with_autocast(tiny_base, tmp_path, device):
    model, prompts = load(tiny_base, device, dtype=torch.bfloat16)
    weights = finetuned(model, prompts, tmp_path)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert any(tensor.count_nonzero() for name, tensor in weights.items() if "lora_B" in name)
