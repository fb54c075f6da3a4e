"""The memory plan: its terms against what torch keeps, its choices, the command; and the curves of a stage."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch

from delrec_lite import needs
from delrec_lite.config import load_recipe
from delrec_lite.errors import DataError, UsageError
from delrec_lite.pipeline.memory import RecipeCheck, fitting_settings, trainings
from delrec_lite.training.curves import draw_curves
from delrec_lite.training.plan import (
    CPU_PROCESS,
    USABLE,
    WEIGHT_BYTES,
    Training,
    choices,
    estimate,
    minutes_on_card,
    parse_bytes,
    plan,
    saved_bytes,
    serving_bytes,
    smallest,
)
from delrec_lite.training.shapes import SHAPES, Shape, find_shape
from tests.command import run
from tests.pictures import marks

SMALL = {
    "llama": Shape("llama", 256, 2, 8, 2, 32, 768, 300),
    "mistral": Shape("mistral", 256, 2, 4, 2, 64, 768, 300),
    "qwen2": Shape("qwen2", 256, 2, 4, 2, 64, 1024, 300, bias=True),
    "qwen3": Shape("qwen3", 256, 2, 4, 2, 64, 1024, 300),
    "phi3": Shape("phi3", 256, 2, 4, 2, 64, 768, 300),
    "gemma3_text": Shape("gemma3_text", 128, 2, 2, 1, 128, 512, 300),
}


def kept_by_backward(shape, training):
    """Bytes that autograd holds after a forward pass, without weights."""
    from delrec_lite.bench.training_memory import FinetuneSection, Path, _loss, random_model
    from delrec_lite.llm.load import Base
    from delrec_lite.llm.model import ItemLM
    from delrec_lite.training.adapters import add_adapter

    lm = random_model(shape, training.precision, "cpu")
    model = ItemLM(Base(lm, lambda _: [1, 2, 3], None, "x", Path()), ["t"] * training.items, training.soft)
    add_adapter(model, FinetuneSection(rank=training.rank, modules=training.modules), steps=1)
    model.train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        _loss(model, training)
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("precision", ["bf16", "fp32", "nf4"])
@pytest.mark.parametrize("modules", ["attention", "all", "qv"])
def test_planned_activations_are_those_that_autograd_keeps(family, precision, modules):
    """The difference of two depths leaves only the activations of a layer."""
    training = Training(precision=precision, modules=modules, tokens=200, items=20, soft=4, rank=8, teacher=False)
    shape = SMALL[family]
    two, four = (kept_by_backward(replace(shape, layers=n), training) for n in (2, 4))
    measured = (four - two) / 2 / training.positions
    assert saved_bytes(shape, training) == pytest.approx(measured, rel=0.15)


def test_the_count_of_parameters_is_the_published_one():
    published = {"smollm2-135m": 134.5e6, "qwen2.5-0.5b": 494e6, "qwen2.5-1.5b": 1.544e9, "qwen2.5-7b": 7.616e9}
    published |= {"llama-3.2-1b": 1.236e9, "gemma-3-270m": 268e6}
    for name, count in published.items():
        shape = SHAPES[name]
        assert shape.linear_parameters + shape.other_parameters == pytest.approx(count, rel=0.002), name


def test_nf4_weights_take_the_bytes_of_the_qlora_paper():
    assert WEIGHT_BYTES["nf4"] * 8 == pytest.approx(4.127, abs=1e-3)
    weight_bytes = estimate(SHAPES["qwen2.5-7b"], Training(precision="nf4")).weights
    assert weight_bytes == pytest.approx(6.526e9 * 4.127 / 8 + 2 * 1.09e9, rel=0.01)


def test_settings_that_save_memory_lower_the_estimate():
    shape = SHAPES["qwen2.5-0.5b"]
    default = estimate(shape, Training())
    assert estimate(shape, Training(checkpointing=True)).activations < 0.15 * default.activations
    assert estimate(shape, Training(tokens=200)).activations == pytest.approx(default.activations / 4, rel=0.05)
    assert estimate(shape, Training(precision="nf4")).weights < 0.65 * default.weights
    assert estimate(shape, Training(optimiser="paged_adamw_8bit")).trained < 0.6 * default.trained
    assert estimate(shape, Training(items=50_000)).scores > 30 * default.scores


def test_choices_fit_and_prefer_what_changes_least():
    for name, shape in SHAPES.items():
        for memory in (4e9, 8e9, 24e9, 80e9):
            fitting = choices(shape, memory, Training())
            assert all(c.memory.total <= memory for c in fitting), name
    first = choices(SHAPES["smollm2-135m"], 8e9, Training())[0]
    assert (first.precision, first.checkpointing) == ("bf16", False)
    assert choices(SHAPES["qwen2.5-7b"], 8e9, Training())[0].precision == "nf4"
    assert not choices(SHAPES["qwen2.5-7b"], 4e9, Training())


def test_shapes_are_read_from_a_configuration(tiny_base, tmp_path):
    shape, where = find_shape(str(tiny_base))
    assert (shape.hidden, shape.layers, shape.kv_heads, shape.intermediate, shape.tied) == (64, 2, 2, 128, True)
    assert where.endswith("config.json")
    assert find_shape("Qwen/Qwen2.5-1.5B-Instruct")[0] == SHAPES["qwen2.5-1.5b"]
    assert find_shape("google/gemma-3-270m-it")[0] == SHAPES["gemma-3-270m"]
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_attention_heads": 2}')
    with pytest.raises(DataError, match="num_hidden_layers"):
        find_shape(str(tmp_path))
    with pytest.raises(UsageError, match="nobody/nothing"):
        find_shape("nobody/nothing")


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("24 GiB", 24 * 2**30), ("512MB", 512e6), ("6", 6e9)])
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "8 apples", "1.2.3GB"])
def test_invalid_sizes_are_refused(text):
    with pytest.raises(UsageError, match="size of memory"):
        parse_bytes(text)


def test_the_command_says_what_fits_and_what_was_not_measured():
    done = run("plan", "--model", "Qwen/Qwen2.5-1.5B-Instruct", "--gpu-memory", "8GB", "--json")
    report = json.loads(done.stdout)
    assert report["fits"]
    assert report == plan("Qwen/Qwen2.5-1.5B-Instruct", "8GB", 50, 1349, 800, cpu_memory=report["cpu"]["memory"])
    assert report["recommended"] == report["choices"][0]
    assert "not yet measured" in report["measured"]
    table = run("plan", "--model", "qwen2.5-7b", "--gpu-memory", "2GB")
    assert "does not fit" in table.stdout
    assert "not yet measured" in table.stderr
    assert run("plan", "--model", "no-such-model").returncode == 2


def test_what_doctor_says_is_what_the_plan_computes():
    recipe = load_recipe("ml-100k-cpu")
    shape = SHAPES["smollm2-135m"].cut(recipe.model.layers)
    whole = trainings(recipe, 1349, "fp32")["finetune"]
    for (_, said), tokens, checkpointing in zip(needs.CPU_TRAINING, (800, 400, 800), (False, False, True), strict=True):
        training = replace(whole, tokens=tokens, checkpointing=checkpointing)
        assert said == pytest.approx(CPU_PROCESS + estimate(shape, training, cuda=False).total, rel=0.01)
    for name, said in needs.CARD_LEAST.items():
        assert said == pytest.approx(smallest(SHAPES[name], Training()).total / USABLE, rel=0.01), name
    on_card = estimate(SHAPES["qwen2.5-1.5b"], Training(precision="nf4")).total / USABLE
    assert pytest.approx(on_card, rel=0.01) == needs.CARD_RECIPE
    assert serving_bytes(shape, 1349) == pytest.approx(needs.SERVING, rel=0.1)


@pytest.mark.parametrize(("memory", "fits"), [(8e9, True), (1.3e9, True), (0.5e9, False)])
def test_the_plan_says_what_fits_the_cpu(memory, fits):
    made = plan("smollm2-135m-instruct", "8GB", 50, 1349, 800, cpu_memory=int(memory))["cpu"]
    assert bool(made["choices"]) == fits == (made["least"] <= memory)
    assert all(c["bytes"]["total"] + made["process"] <= memory for c in made["choices"])


def test_ml_100k_gpu_fits_a_card_of_12_gb_as_it_is():
    recipe, cpu = load_recipe("ml-100k-gpu"), load_recipe("ml-100k-cpu")
    assert (recipe.model.precision, recipe.model.device) == ("nf4", "cuda")
    assert recipe.teacher == cpu.teacher
    check = RecipeCheck.of(recipe, "12GB", 1349, ())
    check.run()
    assert fitting_settings(recipe, check.shape, 1349, check.place, precisions=("nf4",))
    done = run("plan", "ml-100k-gpu", "--gpu-memory", "12GB")
    assert done.returncode == 0
    assert "ml-100k-gpu fits a card of 12GB as it is" in done.stderr


def test_plan_refuses_a_recipe_that_does_not_fit_the_card():
    done = run("plan", "ml-100k-gpu", "--gpu-memory", "4GB")
    assert done.returncode == 10
    assert "finetune of ml-100k-gpu needs 5.0 GB, and a card of 4GB has 4.0 GB" in done.stderr
    assert "set finetune.gradient_accumulation_steps: 2" in done.stderr
    done = run("plan", "ml-100k-gpu", "--gpu-memory", "1GB")
    assert done.returncode == 10
    assert "smaller model.base" in done.stderr
    assert run("plan").returncode == run("plan", "ml-100k-gpu", "--model", "smollm2-135m").returncode == 2


def test_minutes_grow_with_the_base_the_passes_and_checkpointing():
    small, large = SHAPES["smollm2-135m"], SHAPES["qwen2.5-7b"]
    assert minutes_on_card(large, Training(), 1e5) > 20 * minutes_on_card(small, Training(), 1e5)
    assert minutes_on_card(large, Training(), 2e5) == pytest.approx(2 * minutes_on_card(large, Training(), 1e5))
    again = minutes_on_card(large, Training(checkpointing=True), 1e5) / minutes_on_card(large, Training(), 1e5)
    assert again == pytest.approx(1.5, rel=0.01)


def test_curves_show_every_figure(tmp_path):
    lines = [{"step": n, "loss": 5 - n / 50, "next_item": 4 - n / 60, "seconds": 1.0} for n in range(100)]
    for n in (49, 99):
        lines[n]["valid_ndcg@10"] = 0.05 + n / 1000
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = draw_curves(tmp_path, "stage 2")
    tree = ElementTree.parse(picture)
    text = " ".join(tree.getroot().itertext())
    for name in ("loss", "next_item", "valid_ndcg@10"):
        assert f"stage 2: {name}" in text
    assert "seconds" not in text
    assert "best 0.149 after 100" in text
    assert marks(tree, "steps").keys() == marks(tree, "mean").keys() == {"loss", "next_item"}
    assert {name: len(dots) for name, dots in marks(tree, "points").items()} == {"valid_ndcg@10": 2}


def test_curves_of_one_step_and_of_none(tmp_path):
    assert draw_curves(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 2.0, "seconds": 1}\n')
    assert "nan" not in draw_curves(tmp_path).read_text()
