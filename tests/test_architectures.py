"""The contract of every family: all runtimes score as torch; the memory plan and the checks support it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from delrec_lite.architectures import (
    ARCHITECTURES,
    Architecture,
    check_base,
    context_length,
    rope_of,
)
from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import load_base
from delrec_lite.runtime.gguf.checks import check_gguf
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.training.plan import Training, estimate
from delrec_lite.training.shapes import find_shape
from tests.conftest import export_tiny
from tests.families import LONGROPE, ORIGINAL, SCALED, SETTINGS, family, moved
from tests.tiny import dataset

HISTORIES = dataset().test().histories
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def score_range(first, second):
    """The largest difference of two tables of scores, as a share of their range."""
    return float(np.abs(first - second).max() / np.ptp(first))


def exports_as_trained(folder, target, trained_model):
    """Export in every format that the family has, and compare scores; returns the scores of torch."""
    model, prompts, _ = trained_model
    record = ARCHITECTURES[model.lm.config.model_type]
    trained = score_all(model, prompts, HISTORIES, 10)
    formats = {"formats": "both", "onnx_quant": "fp32"} if record.onnx else {"formats": "gguf"}
    bundle = export_tiny(None, target, "f16", trained_model, **formats).path
    header = check_gguf(bundle / "model-f16.gguf", record.name)
    assert header.values["general.architecture"].value == record.gguf
    for engine in ("llama.cpp", *(["onnxruntime"] if record.onnx else [])):
        with Recommender.load(bundle, 1, engine=engine) as recommender:
            difference = score_range(trained, recommender.scores(HISTORIES))
        assert difference < (record.tolerance if engine == "llama.cpp" else record.tolerance / 10), engine
    shape, _ = find_shape(str(folder))
    model.lm = model.lm.get_base_model() if hasattr(model.lm, "get_base_model") else model.lm
    linear = [m for m in model.lm.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear_parameters == sum(m.weight.numel() for m in linear)
    assert shape.tied == model.lm.config.tie_word_embeddings
    assert shape.bias == (linear[0].bias is not None)
    assert estimate(shape, Training()).total > 0
    return trained


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_runtime_scores_as_torch(tmp_path, kind):
    trained_model = moved(tmp_path / "base", kind)
    scaled = exports_as_trained(tmp_path / "base", tmp_path / "x.delrec", trained_model)
    if kind in SCALED:  # else the test would not notice that scaling is left out
        model, prompts, _ = moved(tmp_path / "unscaled", kind, rope_scaling=None)
        unscaled = score_all(model, prompts, HISTORIES, 10)
        assert score_range(scaled, unscaled) > 5 * ARCHITECTURES[model.lm.config.model_type].tolerance


def test_every_family_and_kind_of_scaling_is_tested():
    tried = {(family, (more.get("rope_scaling") or {}).get("rope_type", "")) for family, more in SETTINGS.values()}
    tried |= {("phi3", LONGROPE["type"])}
    for record in ARCHITECTURES:
        assert {(record.name, ""), *((record.name, kind) for kind in record.rope_scaling)} <= tried


def test_prompts_are_longer_than_the_length_before_scaling(tiny_base):
    from tests.tiny import make_model

    prompts = make_model(tiny_base)[1]
    assert len(prompts.next_prefix) + max(map(len, HISTORIES)) > ORIGINAL


@pytest.mark.parametrize("kind", SCALED)
def test_rotary_positions_are_those_of_transformers(tmp_path, kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(family(tmp_path, kind))
    rotary, rope = AutoModelForCausalLM.from_config(config).model.rotary_emb, rope_of(config)
    name = "inv_freq" if hasattr(rotary, "inv_freq") else "full_attention_inv_freq"
    np.testing.assert_allclose(rope.frequencies, getattr(rotary, name).numpy(), rtol=1e-5)
    scaling = getattr(rotary, name.replace("inv_freq", "attention_scaling"))
    assert rope.attention_factor == pytest.approx(scaling)
    written = json.loads((tmp_path / "config.json").read_text())
    np.testing.assert_allclose(rope_of(written).frequencies, rope.frequencies)


@pytest.mark.parametrize("kind", ["llama-llama3", "qwen2", "phi3-longrope", "gemma3-linear"])
def test_a_config_of_another_version_of_transformers_is_read_alike(tmp_path, kind):
    """Version 5 keeps all that sets rotary positions under one key, 4 under several."""
    path = family(tmp_path, kind) / "config.json"
    written = json.loads(path.read_text())
    old = ("rope_scaling", "rope_theta", "partial_rotary_factor", "rope_local_base_freq")
    scaling = written.get("rope_scaling") or written.get("rope_parameters") or {}
    keys = {"rope_type": "default", **scaling.get("full_attention", scaling), "rope_theta": 5000.0}
    keys["rope_type"] = keys.pop("type", keys["rope_type"])
    keys |= {"partial_rotary_factor": 0.75} if kind == "phi3-longrope" else {}
    by_layer_type = {"full_attention": keys, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    written = {key: value for key, value in written.items() if key not in old}
    path.write_text(json.dumps({**written, "rope_parameters": by_layer_type if "gemma" in kind else keys}))
    rotary = load_base("x", tmp_path, "fp32").model.model.rotary_emb
    reference = rotary.inv_freq if hasattr(rotary, "inv_freq") else rotary.full_attention_inv_freq
    rope = rope_of(json.loads(path.read_text()))
    assert (rope.theta, rope.kind) == (5000.0, SETTINGS[kind][1].get("rope_scaling") and keys["rope_type"] or "default")
    np.testing.assert_allclose(rope.frequencies, reference.numpy(), rtol=1e-5)
    if "gemma" in kind and hasattr(rotary, "inv_freq"):
        assert load_base("x", tmp_path, "fp32").model.config.rope_local_base_freq == 10000.0


PLAIN = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256}


def config(model_type="llama", **settings):
    return {**PLAIN, "model_type": model_type, **settings}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "'mscale'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}}, "'beta_fast'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "without 'high_freq_factor'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "no rotary positions"),
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 99}, "scaled by 99"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"] * 2}, "every 6th layer"),
        ({"model_type": "gemma3_text", "rope_local_base_freq": 5000.0}, "base 5000"),
        ({"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1]}}, "1 values"),
    ],
)
def test_a_config_that_cannot_be_exported_is_refused(settings, words):
    check_base(config())
    with pytest.raises(ConfigError, match=words) as error:
        check_base(config(**settings), "x/config.json")
    assert error.value.message.startswith("x/config.json")
    assert error.value.hint


def test_refusals_list_the_supported_families():
    with pytest.raises(ConfigError) as error:
        check_base(config("mamba"))
    assert all(name in error.value.hint for name in ARCHITECTURES.names())
    with pytest.raises(ConfigError, match="cannot be written as ONNX") as error:
        check_base(config("gemma3_text"), onnx=True)
    assert "qwen3" in error.value.hint
    assert "gemma3" not in error.value.hint


def test_adapters_are_on_the_query_and_value_modules():
    assert ARCHITECTURES["llama"].adapted("qv") == ("q_proj", "v_proj")
    assert ARCHITECTURES["phi3"].adapted("qv") == ("qkv_proj",)
    assert ARCHITECTURES["phi3"].adapted("all") == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    with pytest.raises(ValueError, match="not permuted"):
        Architecture("x", gguf="llama", interleaved_rope=True, qkv=("qkv_proj",))


def test_the_context_length_ends_before_runtimes_differ():
    assert context_length(config()) == 256
    assert context_length(config("mistral", sliding_window=100)) == 100
    assert context_length(config("mistral", sliding_window=None)) == 256
    assert context_length(config("qwen2", sliding_window=100, use_sliding_window=False)) == 256
    scaling = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    assert context_length(config("phi3", rope_scaling=scaling, original_max_position_embeddings=64)) == 64


@pytest.mark.parametrize("kind", ["mistral", "phi3-longrope"])
def test_a_history_beyond_the_context_length_loses_its_oldest_items(tmp_path, kind):
    """The context is short, so that a window or the second list of factors would change the scores."""
    bound = {"sliding_window": 64} if kind == "mistral" else {"original_max_position_embeddings": 64}
    model, prompts, base = trained_model = moved(tmp_path / "base", kind, **bound)
    room = 64 - len(prompts.next_prefix)
    assert 0 < room < 60
    histories = [np.arange(60) % 30]
    expected = score_all(model, prompts, [histories[0][-room:]], 60)
    path = export_tiny(None, tmp_path / "x.delrec", "f16", trained_model, max_history=60).path
    with Recommender.load(path, 1) as recommender:
        assert score_range(expected, recommender.scores(histories)) < 0.005


# A family from outside the package.


@pytest.fixture
def toy():
    """What the page's example registers: Ernie 4.5, whose neighbours `transformers` rotates too."""
    (code,) = re.findall(r"```python\n# ernie\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    yield
    ARCHITECTURES.unregister("ernie4_5")


def test_a_family_registered_from_outside_is_exported_and_served(tmp_path, toy):
    trained_model = moved(tmp_path / "base", "ernie4_5", head_dim=16)
    exports_as_trained(tmp_path / "base", tmp_path / "x.delrec", trained_model)
