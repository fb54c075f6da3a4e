"""Precision of the base: NF4 and int8 on the CPU, what stays unquantised, QLoRA steps, merging; other bases."""

import json
import sys

import numpy as np
import pytest
import torch

from delrec_lite.architectures import ARCHITECTURES
from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError, DataError, FetchError, MissingPackageError, UsageError
from delrec_lite.hub.base import find_base
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import load_base, unpack
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.precision import device_for, is_quantised, merged, plain_copy
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.training import distill as stage1
from delrec_lite.training import finetune as stage2
from delrec_lite.training import tasks
from delrec_lite.training.adapters import load_finetuned, merge_deltas
from delrec_lite.training.catalogue_loss import CatalogueLoss
from tests.families import family
from tests.tiny import context, dataset

STAGE_2 = FinetuneSection(epochs=2, tokens_per_step=100, lr=5e-3, item_lr=1e-2, rank=4, alpha=8, modules="all")


def item_lm(folder, precision):
    base = load_base("tiny", folder, precision)
    model = ItemLM(base, dataset().catalog.titles, 4)
    return model, compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos), base


def losses(folder):
    return [json.loads(line)["next_item"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


QUANTISED_KINDS = [
    ("nf4", torch.uint8, torch.bfloat16),
    ("nf4/fp32", torch.uint8, torch.float32),
    ("int8", torch.int8, torch.bfloat16),
    ("int8/fp32", torch.int8, torch.float32),
]


@pytest.mark.parametrize(("precision", "kind", "other_dtype"), QUANTISED_KINDS)
def test_linear_layers_are_quantised_and_nothing_else(tiny_base, precision, kind, other_dtype):
    lm = load_base("tiny", tiny_base, precision).model
    dtypes = {name: p.dtype for name, p in lm.named_parameters()}
    linear = {n for n in dtypes if "proj" in n}
    assert len(linear) == 14
    assert {dtypes[n] for n in linear} == {kind}
    assert {dtype for n, dtype in dtypes.items() if n not in linear} == {other_dtype}
    assert lm.get_input_embeddings().weight.shape == lm.get_output_embeddings().weight.shape
    assert is_quantised(lm)
    assert not is_quantised(load_base("tiny", tiny_base, "fp32").model)


@pytest.mark.parametrize(("precision", "minimum", "maximum"), [("nf4", 0.02, 0.2), ("int8", 0.0005, 0.02)])
def test_quantised_layers_are_close_to_the_original(tiny_base, precision, minimum, maximum):
    copy = plain_copy(load_base("tiny", tiny_base, precision).model)
    original = load_base("tiny", tiny_base, "fp32").model
    assert {n for n, _ in copy.named_parameters()} == {n for n, _ in original.named_parameters()}
    for (name, p), q in zip(copy.named_parameters(), original.parameters(), strict=True):
        error = ((p - q).norm() / q.norm()).item()
        if "proj" in name:
            assert minimum < error < maximum, name
        else:
            assert error < 0.004, name  # bf16


KINDS = [("nf4", "lora"), ("nf4", "dora"), ("nf4", "adalora"), ("nf4/fp32", "adalora"), ("int8", "lora")]
KINDS += [("int8/fp32", "lora")]


@pytest.mark.parametrize(("precision", "adapter"), KINDS)
def test_qlora_trains_reloads_and_merges(tiny_base, tmp_path, precision, adapter):
    model, prompts, base = item_lm(tiny_base, precision)
    recipe = STAGE_2.model_copy(update={"adapter": adapter, "epochs": 4})
    before = {n: p.clone() for n, p in model.lm.named_parameters() if "proj" in n}
    stage2.finetune(context(model, prompts, tmp_path), recipe)
    loss_values = losses(tmp_path)
    assert np.isfinite(loss_values).all()
    assert np.mean(loss_values[-2:]) < np.mean(loss_values[:2]) - 0.2
    after = {n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in model.lm.named_parameters()}
    assert all(torch.equal(p, after[n]) for n, p in before.items())  # the base stays frozen

    histories = dataset().test().histories
    scores = score_all(model, prompts, histories, 10)
    reloaded, _, _ = item_lm(tiny_base, precision)
    load_finetuned(reloaded, tmp_path)
    np.testing.assert_allclose(score_all(reloaded, prompts, histories, 10), scores, atol=1e-5)

    deltas = merge_deltas(model, base, prompts, histories, 10)
    assert deltas["dequant"].correlation > 0.999
    assert deltas["dequant"].mean < deltas["original"].mean
    np.testing.assert_array_equal(score_all(model, prompts, histories, 10), scores)  # the model is unchanged
    merged_model = merged(model.lm)
    assert {p.dtype for p in merged_model.parameters()} == {torch.float32}


def test_an_nf4_run_is_exported_onto_either_base(tiny_base, tmp_path):
    from delrec_lite.export.parity import compare_scores
    from delrec_lite.runtime.recommender import Recommender
    from tests.conftest import export_tiny

    histories = dataset().test().histories
    correlation = {}
    for merge_base in ("dequant", "original"):
        model, prompts, base = item_lm(tiny_base, "nf4")
        folder = tmp_path / merge_base
        stage2.finetune(context(model, prompts, folder), STAGE_2)
        trained = score_all(model, prompts, histories, 10)
        bundle = export_tiny(
            tiny_base, folder / "x.delrec", "f16", (model, prompts, base), merge_base=merge_base, score_correlation=0.5
        )
        with Recommender.load(bundle.path) as recommender:
            correlation[merge_base] = compare_scores(trained, recommender.scores(histories)).score_correlation
    assert correlation["dequant"] > 0.999
    assert correlation["original"] < correlation["dequant"]


def test_without_bitsandbytes_the_error_names_the_extra(tiny_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingPackageError, match="needs bitsandbytes") as caught:
        load_base("tiny", tiny_base, "nf4")
    assert "delrec-lite[qlora]" in caught.value.hint


def test_auto_takes_cuda_where_it_is_available():
    assert device_for("cpu") == "cpu"
    if torch.cuda.is_available():
        assert device_for("auto") == device_for("cuda") == "cuda"
    else:
        assert device_for("auto") == "cpu"
        with pytest.raises(ConfigError, match="no CUDA device"):
            device_for("cuda")


@pytest.mark.parametrize("kind", ARCHITECTURES.names())
def test_families_train_both_stages(tmp_path, kind):
    model, prompts, _ = item_lm(family(tmp_path / "base", kind), "fp32")
    histories = dataset().test().histories

    # Packing and embedding outside the model give the states that the model computes from token ids.
    ids = torch.tensor([[i for i in prompts.next_prefix if i < model.vocabulary.text]])
    n = ids.shape[1]
    with torch.no_grad():
        expected = model.lm.model(input_ids=ids).last_hidden_state[0, -1]
        causal = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        states = model.hidden(ids, torch.arange(n)[None], causal, torch.tensor([n - 1]))[0]
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)

    short = {"epochs": 0.8, "tokens_per_step": 150}
    stage1.distill(context(model, prompts, tmp_path / "1"), DistillSection(**short), prompts)
    recipe = FinetuneSection(**short, modules="all", rank=2)
    stage2.finetune(context(model, prompts, tmp_path / "2"), recipe)
    assert len(losses(tmp_path / "2")) == 2
    scores = score_all(model, prompts, histories, 10)
    assert np.isfinite(scores).all()
    model.lm = merged(model.lm)
    np.testing.assert_allclose(score_all(model, prompts, histories, 10), scores, atol=1e-3)


def test_a_base_is_a_name_a_folder_or_a_file(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    base_files = find_base(str(tiny_base), QUIET, tmp_path)
    assert base_files.folder == tiny_base
    assert set(base_files.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert unpack(base_files.name, base_files.folder, tmp_path) == tiny_base

    gguf = tmp_path / "model-f16.gguf"
    gguf.write_bytes(b"GGUF first")
    first = find_base(str(gguf), QUIET, tmp_path)
    gguf.write_bytes(b"GGUF second")
    second = find_base(str(gguf), QUIET, tmp_path)
    assert first.folder == gguf
    assert first.name != second.name  # unpacked into different folders
    assert first.files != second.files

    (tmp_path / "empty").mkdir()
    for base, error, words in [
        (str(tmp_path / "empty"), DataError, "no model folder"),
        (str(tmp_path / "model-f16.gguf.txt"), UsageError, "no base model"),
        ("nonsense", UsageError, "smollm2-135m-instruct"),
        ("nobody/nothing", FetchError, "DELREC_OFFLINE"),
    ]:
        with pytest.raises(error) as caught:
            find_base(base, QUIET, tmp_path)
        assert words in caught.value.message + caught.value.hint


def test_a_gguf_file_becomes_a_base(tiny_base, tmp_path):
    """The tiny model's own export, read back as a base."""
    from tests.conftest import export_tiny

    bundle = export_tiny(tiny_base, tmp_path / "x.delrec", "f16", prune_vocab=False)
    base_files = find_base(str(next(bundle.path.glob("*.gguf"))), QUIET, tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    folder = unpack(base_files.name, base_files.folder, tmp_path / "cache")
    reloaded = load_base(base_files.name, folder, "fp32")
    original = load_base("tiny", tiny_base, "fp32")
    text = original.model.get_input_embeddings().weight
    embedding = reloaded.model.get_input_embeddings().weight[: len(text)]
    assert ((text - embedding).norm() / text.norm()).item() < 0.01
    for (name, p), (_, q) in zip(
        original.model.model.layers.named_parameters(), reloaded.model.model.layers.named_parameters(), strict=True
    ):
        assert ((p - q).norm() / p.norm()).item() < 0.01, name
    assert reloaded.encode(" Red River") == original.encode(" Red River")


@pytest.mark.slow
@pytest.mark.real
def test_gemma_trains_two_steps(tmp_path):
    """The real Gemma-3-270M, fetched once, de-quantised to bf16; in the faster precision of this machine."""
    from delrec_lite.cache_folder import cache_folder
    from delrec_lite.llm.precision_choice import faster_precision

    precision = faster_precision("cpu", cache_folder())
    base_files = find_base("gemma-3-270m", QUIET, cache_folder())
    model, prompts, _ = item_lm(unpack(base_files.name, base_files.folder, cache_folder()), precision)
    recipe = FinetuneSection(epochs=0.9, tokens_per_step=150, modules="qv", rank=2)
    stage2.finetune(context(model, prompts, tmp_path), recipe)
    assert len(losses(tmp_path)) == 2
    assert np.isfinite(losses(tmp_path)).all()


def test_nf4_still_learns_after_scoring(tiny_base, tmp_path):
    """A forward pass without gradients, as in validation, must not change the layers' weights."""
    model, prompts, _ = item_lm(tiny_base, "nf4")
    model.requires_grad_(False)
    before = plain_copy(model.lm)
    score_all(model, prompts, dataset().test().histories, 10)
    for p, q in zip(before.parameters(), plain_copy(model.lm).parameters(), strict=True):
        assert torch.equal(p, q)
    model.soft.requires_grad_(True)
    stage, recipe = context(model, prompts, tmp_path), DistillSection()
    loss = CatalogueLoss(stage, recipe.tokens_per_step, recipe.seed)
    tasks.pattern_loss(stage, loss, list(dataset().train()[:3]), 0, recipe).backward()
    assert model.soft.grad.norm() > 0
