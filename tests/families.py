"""Small random models of every family, with settings that real ones have; used by tests of export and training."""

import json

import numpy as np
import torch

from delrec_lite.config import FinetuneSection
from delrec_lite.training.adapters import add_adapter
from tests.tiny import make_model, write_base

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.15,
}
OF_FAMILY = {
    "llama": {"head_dim": 16, "tie_word_embeddings": False},
    "mistral": {"head_dim": 32, "sliding_window": 128},
    "qwen3": {"head_dim": 16},
    "phi3": {"original_max_position_embeddings": 128},
    "gemma3_text": {"head_dim": 16, "sliding_window": 128, "query_pre_attn_scalar": 16},
}
# Shorter than the prompts of the ring of items, so that scaling matters at most positions.
ORIGINAL = 24
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LONGROPE = {"type": "longrope", "short_factor": np.linspace(1, 3, 6).tolist(), "long_factor": [9.0] * 6}
# Rotary positions that are scaled: family, settings.
SCALED = {
    "llama-llama3": ("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": ORIGINAL}}),
    "llama-linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "mistral-llama3": ("mistral", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": ORIGINAL}}),
    "mistral-linear": ("mistral", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mistral-yarn": ("mistral", {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    "qwen2-linear": ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2-yarn": ("qwen2", {"head_dim": 16, "rope_scaling": YARN}),
    "qwen3-linear": ("qwen3", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen3-yarn": ("qwen3", {"rope_scaling": YARN}),
    "phi3-longrope": ("phi3", {"partial_rotary_factor": 0.75, "rope_scaling": LONGROPE}),
    "gemma3-linear": ("gemma3_text", {"num_hidden_layers": 6, "rope_scaling": {"rope_type": "linear", "factor": 16.0}}),
}
SETTINGS = {
    "llama": ("llama", {}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {}),
    "gemma3": ("gemma3_text", {}),
    "gemma3-six-layers": ("gemma3_text", {"num_hidden_layers": 6}),
    **SCALED,
}


def family(folder, kind, **changes):
    """A random model of a family or of one of ``SETTINGS``, with the tiny tokenizer."""
    import transformers

    write_base(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    model_type, settings = SETTINGS.get(kind, (kind, {}))
    keys = {**SHAPE, "vocab_size": vocabulary, **OF_FAMILY.get(model_type, {}), **settings, **changes}
    if keys.get("rope_scaling", "") is None:
        del keys["rope_scaling"]
    config = transformers.AutoConfig.for_model(model_type, **keys)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def moved(folder, kind, **changes):
    """A model of ``family`` whose norms, biases and trained parts are away from their first values."""
    model, prompts, base = make_model(family(folder, kind, **changes))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in model.lm.named_parameters():
            if "norm" in name or "bias" in name:
                p.add_(torch.randn_like(p) * 0.3)
    scramble(model)
    return model, prompts, base


def scramble(model):
    """Make every part of the model matter: adapter, soft prompt and offsets away from their first values."""
    add_adapter(model, FinetuneSection(rank=4, alpha=8), steps=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        for p in (model.soft, model.offset_in, model.offset_out):
            p.add_(torch.randn_like(p) * 0.3)
        model.log_scale.fill_(0.4)
    return model
