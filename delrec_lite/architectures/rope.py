"""Rotary positions as a config.json sets them: frequencies and their scaling, in numpy alone.

Kinds of scaling, by their names in `transformers` (``modeling_rope_utils``), all computed by its formulas:

- ``linear``: every frequency is divided by a factor (arXiv 2306.15595);
- ``llama3``: low frequencies are divided, high ones unchanged, those between interpolated (Llama 3.1's reference code);
- ``yarn``: the same idea with a ramp over the head's width, and larger cosines and sines (arXiv 2309.00071);
- ``longrope``: a divisor for each frequency (arXiv 2402.13753). A model has two lists: for prompts up to the length of
  its first training, and for longer ones. Prompts here are never longer, so only the first list is used.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.architectures.record import head_width, settings_of
from delrec_lite.errors import ConfigError

_SHARED = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
_REQUIRED = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor"},
    "longrope": {"short_factor", "long_factor"},
}
_OPTIONAL = {
    "default": set[str](),
    "linear": set[str](),
    "llama3": set[str](),
    "yarn": {"attention_factor"},
    "longrope": {"factor", "attention_factor"},
}
# Defaults of both `transformers` and llama.cpp; other values are refused.
_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}


@dataclass(frozen=True)
class Rope:
    """Rotary positions of a model's layers; where layers differ, of those with full attention.

    Attributes:
        kind: ``default`` or a kind of scaling.
        theta: Base of the unscaled frequencies.
        width: How many numbers of a head are rotated.
        factor: By how much scaling multiplies the longest prompt.
        original: Tokens of the longest prompt before scaling.
        attention_factor: Factor of cosines and sines.
        divisors: Divisor of each frequency, float64 ``[width / 2]``.
    """

    kind: str
    theta: float
    width: int
    factor: float
    original: int
    attention_factor: float
    divisors: npt.NDArray[np.float64]

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """Radians a position, ``[width / 2]``."""
        unscaled: npt.NDArray[np.float64] = self.theta ** (-np.arange(0, self.width, 2) / self.width)
        return unscaled / self.divisors


def rope_settings(config: Any) -> dict[str, Any]:
    """Settings of the rotary positions, from the layout of `transformers` 4 or 5; ``rope_type`` is always set.

    Args:
        config: The content of a config.json, or a `transformers` configuration.
    """
    settings = settings_of(config)
    parameters = settings.get("rope_parameters") or {}
    keys = {
        **{key: settings[key] for key in ("rope_theta", "partial_rotary_factor") if settings.get(key) is not None},
        **(settings.get("rope_scaling") or {}),
        **parameters.get("full_attention", parameters),
    }
    kind = keys.get("rope_type") or keys.get("type") or "default"
    return {**keys, "rope_type": "longrope" if kind == "su" else kind}  # its older name, in the first Phi-3 files


def rope_of(config: Any) -> Rope:
    """The rotary positions that a configuration sets; ``check_rope`` says whether they are of a known kind."""
    settings, keys = settings_of(config), rope_settings(config)
    kind, theta = keys["rope_type"], float(keys.get("rope_theta", 10000.0))
    width = int(head_width(config) * float(keys.get("partial_rotary_factor", 1.0)))
    longest = int(settings["max_position_embeddings"])
    original = int(keys.get("original_max_position_embeddings") or longest)
    if kind == "longrope":
        original = int(settings.get("original_max_position_embeddings") or original)
    factor = float(keys.get("factor") or 1.0)
    divisors, attention = np.ones(width // 2), 1.0
    if kind == "linear":
        divisors = np.full(width // 2, factor)
    elif kind == "llama3":
        divisors = _llama3(theta, width, factor, original, keys)
    elif kind == "yarn":
        divisors = _yarn(theta, width, factor, original)
        attention = float(keys.get("attention_factor") or yarn_attention(factor))
    elif kind == "longrope":
        divisors = np.array(keys["short_factor"], np.float64)
        if longest != original:
            factor = longest / original
        default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        attention = float(keys.get("attention_factor") or default)
    return Rope(kind, theta, width, factor, original, attention, divisors)


def check_rope(config: Any, kinds: tuple[str, ...], where: str) -> None:
    """Refuse rotary positions that are not computed alike everywhere.

    Args:
        config: The content of a config.json, or a `transformers` configuration.
        kinds: Kinds of scaling that the family supports.
        where: Name of the model in error messages.

    Raises:
        ConfigError: Another kind of scaling, or a key or value that is not known.
    """
    keys = rope_settings(config)
    kind = keys["rope_type"]

    def refuse(what: str) -> ConfigError:
        supported = ", ".join(kinds) or "none"
        return ConfigError(f"{where} has rotary positions {what}", f"kinds of scaling for its family: {supported}")

    if kind != "default" and kind not in kinds:
        raise refuse(f"scaled in a way that is not known for its family: {kind!r}")
    if missing := _REQUIRED[kind] - keys.keys():
        raise refuse(f"of the kind {kind!r} without {min(missing)!r}")
    explicit = {key for key, value in keys.items() if value is not None and _DEFAULTS.get(key) != value}
    if unknown := explicit - _SHARED - _REQUIRED[kind] - _OPTIONAL[kind]:
        raise refuse(f"with the unknown setting {min(unknown)!r}: {keys[min(unknown)]!r}")
    if kind == "longrope" and len(keys["short_factor"]) * 2 != (width := rope_of(config).width):
        raise refuse(f"of a width of {width}, and {len(keys['short_factor'])} values in 'short_factor'")


def yarn_attention(factor: float) -> float:
    """YaRN's default factor of cosines and sines."""
    return 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0


def _llama3(theta: float, width: int, factor: float, original: int, keys: Any) -> npt.NDArray[np.float64]:
    turns = original * theta ** (-np.arange(0, width, 2) / width) / (2 * np.pi)  # within the original length
    low, high = float(keys["low_freq_factor"]), float(keys["high_freq_factor"])
    unscaled = np.clip((turns - low) / (high - low), 0, 1)  # share of each frequency that is not divided
    return 1 / (unscaled + (1 - unscaled) / factor)


def _yarn(theta: float, width: int, factor: float, original: int) -> npt.NDArray[np.float64]:
    def dimension(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(_DEFAULTS["beta_fast"])), 0)
    high = min(math.ceil(dimension(_DEFAULTS["beta_slow"])), width - 1)
    scaled = np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
    return 1 / ((1 - scaled) + scaled / factor)
