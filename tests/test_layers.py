"""`model.layers`: only some layers of the base are trained, exported and served."""

import copy

import numpy as np
import pytest
import torch

from delrec_lite.architectures import check_layers
from delrec_lite.config import ModelSection
from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_histories
from delrec_lite.llm.load import load_base
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.gguf.header import read_header
from delrec_lite.runtime.recommender import Recommender
from tests.families import family
from tests.tiny import write_base

HISTORIES = [np.array([3, 4, 5]), np.array([7])]


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With three layers, of which the one between the first and the last can be left out."""
    return write_base(tmp_path_factory.mktemp("three") / "base", layers=3)


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 1]), ("1+1", [0, 2]), ("1+2", [0, 1, 2])])
def test_the_kept_layers_are_those_of_the_base(tiny_base, layers, kept):
    full, part = (load_base("tiny", tiny_base, torch.float32, layers=n).model for n in (None, layers))
    assert part.config.num_hidden_layers == len(part.model.layers) == len(kept)
    expected = copy.deepcopy(full)
    expected.model.layers = torch.nn.ModuleList(full.model.layers[n] for n in kept)
    expected.config.num_hidden_layers = len(kept)
    assert {name for name, _ in part.named_parameters()} == {name for name, _ in expected.named_parameters()}
    for name, weight in part.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name]), name
    ids = torch.tensor([[1, 5, 9, 7]])
    assert torch.equal(part(ids, use_cache=False).logits, expected(ids, use_cache=False).logits)
    parts = part(ids[:, :2], use_cache=True)
    cached = part(ids[:, 2:], use_cache=True, past_key_values=parts.past_key_values).logits
    torch.testing.assert_close(cached, part(ids).logits[:, 2:])


@pytest.mark.parametrize("layers", [1, "1+1"])
def test_a_run_with_fewer_layers_serves_what_it_trained(tiny_run, layers):
    run = tiny_run(model={"layers": layers}, export={"quant": "f16", "format": "both", "onnx_quant": "fp32"})
    built = run.models.trained()
    expected = score_histories(built.model, built.prompts, HISTORIES, 10)
    run.export()
    blocks = read_header(run.bundle / "model-f16.gguf").values["llama.block_count"].value
    assert blocks == len(built.model.body.layers)
    for quant, tolerance in (("f16", 0.05), ("fp32", 1e-3)):
        with Recommender.load(run.bundle, 1, quant=quant) as recommender:
            np.testing.assert_allclose(recommender.scores(HISTORIES), expected, atol=tolerance)


def test_the_number_of_layers_decides_the_stages(tiny_run):
    keys = {n: tiny_run(runs=f"runs-{n}", model={"layers": n}).distill().key for n in (None, 1, 2, "1+1")}
    assert len(set(keys.values())) == 4
    assert keys[None] == tiny_run(runs="runs-again").distill().key


def test_the_zero_shot_row_is_the_whole_base(tiny_run, monkeypatch):
    run, loaded = tiny_run(model={"layers": 1}), []
    load = type(run.models).base

    def base(self, *args, **options):
        result = load(self, *args, **options)
        loaded.append((len(result.model.model.layers), options.get("whole", False)))
        return result

    monkeypatch.setattr(type(run.models), "base", base)
    evaluate(run, zero_shot=True, bundle=False)
    assert (3, True) in loaded
    assert (1, False) in loaded


@pytest.mark.parametrize(("layers", "count"), [(1, 1), ("1+1", 2)])
def test_an_adapter_is_merged_into_the_original_layers(tiny_run, layers, count):
    changes = {"merge_base": "original", "score_correlation": 0.2, "quant": "f16"}
    run = tiny_run(model={"layers": layers, "precision": "nf4"}, export=changes)
    run.export()
    assert read_header(run.bundle / "model-f16.gguf").values["llama.block_count"].value == count


@pytest.mark.parametrize("layers", [4, "2+2"])
def test_more_layers_than_the_base_has_are_refused_before_any_stage(tiny_run, layers):
    run = tiny_run(model={"layers": layers})
    with pytest.raises(
        ConfigError, match=rf"model.layers is {layers}, but .*config.json has 3 layers".replace("+", r"\+")
    ):
        run.finetune()
    assert not (run.folder / "teacher").exists()


@pytest.mark.parametrize("layers", [0, -1, "0+2", "2+0", "2+", "2 + 2", "2+2+2", "٢+٢", "first", "", "9" * 5000])
def test_layers_are_a_number_or_first_and_last(layers):
    with pytest.raises(ValueError, match="layers"):
        ModelSection(layers=layers)
    assert ModelSection(layers="8").layers == 8


def test_layers_of_two_kinds_keep_their_order(tmp_path):
    config = load_base("tiny", family(tmp_path / "base", "gemma3-six-layers"), torch.float32).model.config
    config.num_hidden_layers, every = 18, 6
    for layers in ("2+4", f"{every}+{every}", 7):
        check_layers(layers, config)
    with pytest.raises(ConfigError, match="every 6th layer of the base model"):
        check_layers("2+3", config)


def test_a_deep_prompt_needs_layers_that_it_enters(tiny_run):
    with pytest.raises(ValueError, match="soft_layers all needs more than 2 layers"):
        tiny_run(model={"layers": 2, "soft_layers": "all"})
