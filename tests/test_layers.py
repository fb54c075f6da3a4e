"""`model.layers`: only the first layers of the base are trained, exported and served."""

import numpy as np
import pytest
import torch

from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_histories
from delrec_lite.llm.load import load_base
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.gguf.header import read_header
from delrec_lite.runtime.recommender import Recommender

HISTORIES = [np.array([3, 4, 5]), np.array([7])]


def test_the_first_layers_are_loaded_and_no_others(tiny_base):
    full, first = (load_base("tiny", tiny_base, torch.float32, layers=n).model for n in (None, 1))
    assert (len(full.model.layers), len(first.model.layers), first.config.num_hidden_layers) == (2, 1, 1)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, full.state_dict()[name]), name


def test_a_run_with_fewer_layers_serves_what_it_trained(tiny_run):
    run = tiny_run(model={"layers": 1}, export={"quant": "f16", "format": "both", "onnx_quant": "fp32"})
    built = run.models.trained()
    expected = score_histories(built.model, built.prompts, HISTORIES, 10)
    run.export()
    assert read_header(run.bundle / "model-f16.gguf").values["llama.block_count"].value == 1
    for quant, tolerance in (("f16", 0.05), ("fp32", 1e-3)):
        with Recommender.load(run.bundle, 1, quant=quant) as recommender:
            np.testing.assert_allclose(recommender.scores(HISTORIES), expected, atol=tolerance)


def test_the_number_of_layers_decides_the_stages(tiny_run):
    keys = {n: tiny_run(runs=f"runs-{n}", model={"layers": n}).distill().key for n in (None, 1, 2)}
    assert len(set(keys.values())) == 3
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
    assert (2, True) in loaded
    assert (1, False) in loaded


def test_an_adapter_is_merged_into_the_original_layers(tiny_run):
    run = tiny_run(model={"layers": 1, "precision": "nf4"}, export={"merge_base": "original", "score_correlation": 0.2})
    run.export()
    assert read_header(run.bundle / "model-f16.gguf").values["llama.block_count"].value == 1


def test_more_layers_than_the_base_has_are_refused_before_any_stage(tiny_run, tiny_base):
    run = tiny_run(model={"layers": 3})
    with pytest.raises(ConfigError, match=r"model.layers is 3, but .*config.json has 2 layers"):
        run.finetune()
    assert not (run.folder / "teacher").exists()


def test_a_deep_prompt_needs_layers_that_it_enters(tiny_run):
    with pytest.raises(ValueError, match="soft_layers all needs more than 2 layers"):
        tiny_run(model={"layers": 2, "soft_layers": "all"})
