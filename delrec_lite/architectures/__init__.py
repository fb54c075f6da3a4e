"""Families of base models: one record each, their rotary positions, and the check before training. Needs only numpy."""

from delrec_lite.architectures.check import check_base, context_length
from delrec_lite.architectures.layers import Layers, check_layers, keep_layers, layer_count
from delrec_lite.architectures.record import Architecture, head_width
from delrec_lite.architectures.registry import (
    ARCHITECTURES,
    find_architecture,
    gguf_architectures,
    gguf_names,
    register_architecture,
)
from delrec_lite.architectures.rope import rope_of

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Layers",
    "check_base",
    "check_layers",
    "context_length",
    "find_architecture",
    "gguf_architectures",
    "gguf_names",
    "head_width",
    "keep_layers",
    "layer_count",
    "register_architecture",
    "rope_of",
]
