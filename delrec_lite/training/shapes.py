"""Shapes of language models: read from a configuration, or built in as published, so that nothing is downloaded."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delrec_lite.architectures import Layers, check_base, find_architecture, head_width, layer_count
from delrec_lite.errors import DataError, UsageError, did_you_mean


@dataclass(frozen=True)
class Shape:
    """The sizes that decide the memory of a decoder-only model; names as in ``transformers``.

    Attributes:
        family: Model type; see ``architectures``.
        hidden: Width.
        layers: How many.
        heads: Of the queries.
        kv_heads: Of keys and values.
        head_dim: Width of a head.
        intermediate: Width of the gated feed-forward part.
        vocabulary: Rows of the embedding.
        tied: Whether the LM head is the embedding.
        bias: Whether query, key and value have a bias.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    bias: bool = False

    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return find_architecture(self.family).linear(self.hidden, q, kv, self.intermediate)

    @property
    def linear_parameters(self) -> int:
        """Of all layers' linear modules."""
        return self.layers * sum(a * b for a, b in self.linear().values())

    @property
    def other_parameters(self) -> int:
        """Embedding, LM head if it is not the embedding, norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (4 * self.layers + 1) * self.hidden

    def cut(self, layers: Layers | None) -> "Shape":
        """With the layers of a recipe's ``model.layers`` alone; None: all."""
        return self if layers is None else replace(self, layers=min(layer_count(layers), self.layers))


# As published in each model's config.json.
SHAPES: dict[str, Shape] = {
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 64, 1536, 49152),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 64, 4864, 151936, bias=True),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, bias=True),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, tied=False, bias=True),
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 64, 8192, 128256),
    "gemma-3-270m": Shape("gemma3_text", 640, 18, 4, 1, 256, 2048, 262144),
}


def find_shape(model: str, folders: tuple[Path, ...] = ()) -> tuple[Shape, str]:
    """The shape of a model and where it was read; nothing is downloaded.

    Args:
        model: A folder or config.json, or a model's name or Hub id.
        folders: Where an unpacked base or the Hub's cache may lie.

    Raises:
        ConfigError: A family or a setting that cannot be trained and exported.
        DataError: A configuration that is not of a decoder-only model.
        UsageError: Neither on disk nor built in.
    """
    if path := find_config(model, folders):
        return read_shape(json.loads(path.read_text(encoding="utf-8")), str(path)), str(path)
    name = re.sub(r"-(instruct|it|chat|base|pt)$", "", model.rpartition("/")[2].partition("@")[0].lower())
    if name not in SHAPES:
        raise UsageError(
            f"the shape of {model!r} is not known",
            did_you_mean(name, SHAPES, ", or a folder or config.json of the model: its config.json is enough"),
        )
    return SHAPES[name], "as published"


def find_config(model: str, folders: tuple[Path, ...] = ()) -> Path | None:
    """The config.json of a model if it is on disk; arguments as in ``find_shape``."""
    path = Path(model).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        return path
    cache_name = "models--" + model.partition("@")[0].replace("/", "--")
    cached = (
        config
        for folder in folders
        for config in (*sorted(folder.glob(f"{cache_name}/snapshots/*/config.json")), folder / model / "config.json")
    )
    return next((config for config in (path / "config.json", *cached) if config.is_file()), None)


def read_shape(config: Mapping[str, Any], where: str) -> Shape:
    """The shape in a config.json.

    Raises:
        ConfigError: A family or a setting that cannot be trained and exported.
        DataError: A key is missing; names it.
    """
    try:
        heads = int(config["num_attention_heads"])
        numbers = [int(config[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")]
        family = find_architecture(config["model_type"], where)
    except KeyError as error:
        raise DataError(f"{where} has no {error.args[0]!r}", "give the config.json of a decoder-only model") from error
    check_base(config, where)
    hidden, layers, intermediate, vocabulary = numbers
    return Shape(
        family.name,
        hidden,
        layers,
        heads,
        int(config.get("num_key_value_heads") or heads),
        head_width(config),
        intermediate,
        vocabulary,
        bool(config.get("tie_word_embeddings", family.tied)),
        family.qkv_bias or bool(config.get("attention_bias")),
    )
