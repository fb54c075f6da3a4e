"""Whether a base model can be trained and exported, read from its config.json alone."""

from typing import Any

from delrec_lite.architectures.record import Architecture, head_width, settings_of
from delrec_lite.architectures.registry import ARCHITECTURES, find_architecture
from delrec_lite.architectures.rope import check_rope, rope_of, rope_settings
from delrec_lite.errors import ConfigError

# llama.cpp's base of the rotary positions of layers with a sliding window.
LOCAL_THETA = 10000.0


def check_base(config: Any, where: str = "the base model", onnx: bool = False) -> Architecture:
    """Refuse what GGUF or ONNX files would compute otherwise than `transformers` does.

    Args:
        config: The content of a config.json, or a `transformers` configuration.
        where: Whose it is.
        onnx: An ONNX file is asked for.

    Returns:
        The family's record.

    Raises:
        ConfigError: An unknown family, or a setting that it does not know.
    """
    settings = settings_of(config)
    record = find_architecture(str(settings.get("model_type")), where)
    if onnx and not record.onnx:
        known = ", ".join(other.name for other in ARCHITECTURES if other.onnx)
        raise ConfigError(
            f"{where} is a {record.name!r} model, which cannot be written as ONNX",
            f"set export.format: gguf, or take another family: {known}",
        )
    activation = settings.get("hidden_activation") or settings.get("hidden_act") or record.activation
    if activation != record.activation:
        raise _other(where, f"its activation is {activation}, not {record.activation}")
    scale = settings.get("query_pre_attn_scalar")
    if scale is not None and scale != head_width(settings):
        raise _other(where, f"attention is scaled by {scale}, not by its heads' width of {head_width(settings)}")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if settings.get(key) is not None:
            raise _other(where, f"{key} is {settings[key]}")
    for key in ("attention_bias", "mlp_bias"):
        if settings.get(key) and not record.optional_bias:
            raise _other(where, f"{key} is set")
    if not record.partial_rope and float(rope_settings(settings).get("partial_rotary_factor", 1.0)) != 1.0:
        raise _other(where, "a part of each head has no rotary positions")
    check_rope(settings, record.rope_scaling, where)
    if record.full_attention_every:
        _check_layers(settings, record, where)
    return record


def context_length(config: Any) -> int | None:
    """Most tokens of a prompt that every runtime reads alike; None: no bound is known.

    A sliding window is such a bound, because llama.cpp ignores it in some families and training never applies it. So is
    the length up to which the first list of ``longrope`` holds.

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
    """Layers that see all tokens stand where llama.cpp expects them, and the others' positions are its own."""
    every = record.full_attention_every
    kinds = settings.get("layer_types") or []
    expected = ["sliding_attention" if (n + 1) % every else "full_attention" for n in range(len(kinds))]
    told = settings.get("sliding_window_pattern") or settings.get("_sliding_window_pattern") or every
    if kinds != expected or told != every:
        raise _other(where, f"another than every {every}th layer sees all tokens")
    local = (settings.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = local.get("rope_theta") or settings.get("rope_local_base_freq") or LOCAL_THETA
    if theta != LOCAL_THETA or local.get("rope_type", "default") != "default":
        raise _other(where, f"layers with a sliding window have rotary positions of base {theta:g} or scaled ones")


def _other(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where} cannot be exported: {what}", "take another size or model of the family")
