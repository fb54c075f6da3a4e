"""Options to load the frozen base in bf16, fp32, NF4 or int8 (bitsandbytes), and de-quantisation to plain weights."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from delrec_lite.cards import Problem, problem_here
from delrec_lite.errors import ConfigError, DelrecError, MissingPackageError, install_line

QUANTISED = ("nf4", "int8")
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def device_for(choice: str) -> str:
    """``cpu`` or ``cuda`` for the recipe's ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` without a CUDA device.
    """
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        problem = problem_here() or Problem("torch finds no CUDA device", "set it to auto or cpu")
        raise ConfigError(f"model.device is cuda, but {problem.message}", problem.hint)
    return choice


def loading_options(precision: str, device: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained``; embeddings, head and norms are never quantised.

    NF4 is the 4-bit normal float of QLoRA (arXiv 2305.14314) with double quantisation; int8 is LLM.int8
    (arXiv 2208.07339).

    Args:
        precision: A value of ``precision_choice.resolve_precision``.
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingPackageError: NF4 or int8 without bitsandbytes.
    """
    linear, _, compute = precision.partition("/")
    if linear not in QUANTISED:
        return {"dtype": _DTYPES[linear]}
    wide = _DTYPES[compute or "bf16"]
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"model.precision {linear} needs bitsandbytes, which is not installed", install_line("bitsandbytes")
        ) from error
    from transformers import BitsAndBytesConfig

    if linear == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=wide,
            llm_int8_skip_modules=["lm_head"],
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    return {"dtype": wide, "quantization_config": config, "device_map": {"": device}}


def is_quantised(lm: Any) -> bool:
    """Whether the linear layers are in NF4 or int8."""
    return any(hasattr(p, "quant_state") or p.dtype == torch.int8 for p in lm.parameters())


@torch.no_grad()
def plain_copy(lm: Any) -> Any:
    """The base of ``lm`` in float32 on the CPU, de-quantised and without adapter."""
    from transformers import AutoModelForCausalLM

    base = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
    config = deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    tensors = {}
    for name, module in base.named_modules():
        plain_name = name.replace(".base_layer", "")
        if any(part in name for part in (".lora_", "modules_to_save", ".ranknum")):  # of the adapter
            continue
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"} and not hasattr(module, "base_layer"):
            tensors[f"{plain_name}.weight"] = _dequantised(module).float().cpu()
            if module.bias is not None:
                tensors[f"{plain_name}.bias"] = module.bias.float().cpu()
        elif not hasattr(module, "base_layer"):
            tensors |= {f"{plain_name}.{key}": p.float().cpu() for key, p in module.named_parameters(recurse=False)}
    unmatched = plain.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(unmatched.missing_keys) - tied or unmatched.unexpected_keys:
        raise DelrecError(f"cannot de-quantise the base model: {unmatched}", "set model.precision: auto")
    return plain.requires_grad_(False).eval()


def _dequantised(module: Any) -> Any:
    """The de-quantised weight of a bitsandbytes layer; unlike bitsandbytes and PEFT this does not change the layer."""
    weight = module.weight
    if weight.dtype == torch.int8:
        scales = module.state.SCB if module.state.SCB is not None else weight.SCB
        return weight.data.float() * scales.float().unsqueeze(1) / 127
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def keep_layout(lm: Any) -> None:
    """Prevent bitsandbytes from repacking NF4 weights at the first forward on some CPUs.

    Repacked weights have no backward pass and cannot be de-quantised. A validation between two training steps is such
    a forward.
    """
    for module in lm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@torch.no_grad()
def merged(lm: Any, plain: Any | None = None) -> Any:
    """The language model with its adapter merged, float32.

    Args:
        lm: As trained, with or without adapter; changed in place unless it is quantised or ``plain`` is given.
        plain: Weights to merge onto, changed in place. None: those of ``lm``, de-quantised if necessary.

    Raises:
        ConfigError: ``plain`` is given, but all weights were trained and there is no adapter.
    """
    if plain is not None and not hasattr(lm, "merge_and_unload"):
        raise ConfigError("all weights were trained, there is no adapter to merge onto others", "merge_base: dequant")
    if plain is None and not is_quantised(lm):
        lm = lm.float().cpu()
        return lm.merge_and_unload() if hasattr(lm, "merge_and_unload") else lm
    plain = plain_copy(lm) if plain is None else plain
    return with_adapter_of(lm, plain).merge_and_unload() if hasattr(lm, "merge_and_unload") else plain


def with_adapter_of(lm: Any, plain: Any) -> Any:
    """``plain`` wrapped in a copy of the adapter of ``lm``."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    state: Mapping[str, Any] = get_peft_model_state_dict(lm, save_embedding_layers=False)
    wrapped = get_peft_model(plain, deepcopy(lm.peft_config[lm.active_adapter])).eval()
    unmatched = set_peft_model_state_dict(wrapped, {name: t.float().cpu() for name, t in state.items()})
    if unmatched.unexpected_keys:
        raise DelrecError(
            f"the adapter does not fit the base: {unmatched.unexpected_keys[:3]}", "merge onto the base it was made on"
        )
    return wrapped
