"""Checks from its config.json alone whether a base model can be trained and exported."""

from typing import Any

from delrec_lite.architectures.record import Architecture, head_width, settings_of
from delrec_lite.architectures.registry import ARCHITECTURES, find_architecture
from delrec_lite.architectures.rope import check_rope, rope_of, rope_settings
from delrec_lite.errors import ConfigError

# The base that llama.cpp uses for the rotary positions of layers with a sliding window.
LOCAL_THETA = 10000.0


def check_base(config: Any, where: str = "the base model", onnx: bool = False) -> Architecture:
    """Refuse a model for which GGUF or ONNX files would compute something else than `transformers`.

    Args:
        config: The content of a config.json, or a `transformers` configuration.
        where: Name of the model in error messages.
        onnx: An ONNX file will be written.

    Returns:
        The family's record.

    Raises:
        ConfigError: An unknown family, or a setting that is not supported for it.
    """
    settings = settings_of(config)
    record = find_architecture(str(settings.get("model_type")), where)
    if onnx and not record.onnx:
        supported = ", ".join(other.name for other in ARCHITECTURES if other.onnx)
        raise ConfigError(
            f"{where} is a {record.name!r} model, which cannot be written as ONNX",
            f"set export.format: gguf, or choose another family: {supported}",
        )
    activation = settings.get("hidden_activation") or settings.get("hidden_act") or record.activation
    if activation != record.activation:
        raise _unsupported(where, f"its activation is {activation}, not {record.activation}")
    scale = settings.get("query_pre_attn_scalar")
    if scale is not None and scale != head_width(settings):
        raise _unsupported(where, f"attention is scaled by {scale}, not by its heads' width of {head_width(settings)}")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if settings.get(key) is not None:
            raise _unsupported(where, f"{key} is {settings[key]}")
    for key in ("attention_bias", "mlp_bias"):
        if settings.get(key) and not record.optional_bias:
            raise _unsupported(where, f"{key} is set")
    if not record.partial_rope and float(rope_settings(settings).get("partial_rotary_factor", 1.0)) != 1.0:
        raise _unsupported(where, "a part of each head has no rotary positions")
    check_rope(settings, record.rope_scaling, where)
    if record.full_attention_every:
        _check_layers(settings, record, where)
    return record


def context_length(config: Any) -> int | None:
    """Most tokens of a prompt that every runtime computes alike; None: there is no known limit.

    A sliding window is such a limit, because llama.cpp ignores it in some families and training never applies it. So is
    the length up to which the first list of ``longrope`` applies.

    Args:
        config: A `transformers` configuration, or the content of a config.json.
    """
    settings = settings_of(config)
    bounds = [settings.get("max_position_embeddings")]
    if settings.get("use_sliding_window", True):
        bounds.append(settings.get("sliding_window"))
    if rope_settings(settings)["rope_type"] == "longrope":
        bounds.append(rope_of(settings).original)
    return min((int(bound) for bound in bounds if bound), default=None)


def _check_layers(settings: Any, record: Architecture, where: str) -> None:
    """Check that full attention is in the layers where llama.cpp expects it, and the rotary positions of the others."""
    every = record.full_attention_every
    kinds = settings.get("layer_types") or []
    expected = ["sliding_attention" if (n + 1) % every else "full_attention" for n in range(len(kinds))]
    pattern = settings.get("sliding_window_pattern") or settings.get("_sliding_window_pattern") or every
    if kinds != expected or pattern != every:
        raise _unsupported(where, f"full attention is not in every {every}th layer")
    local = (settings.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = local.get("rope_theta") or settings.get("rope_local_base_freq") or LOCAL_THETA
    if theta != LOCAL_THETA or local.get("rope_type", "default") != "default":
        raise _unsupported(where, f"layers with a sliding window have rotary positions of base {theta:g}, or scaled")


def _unsupported(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where} cannot be exported: {what}", "choose another size or model of the family")
