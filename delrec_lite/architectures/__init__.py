"""Families of base models: a record each, their rotary positions, and the check before training. Needs numpy alone."""

from delrec_lite.architectures.check import check_base, context_length
from delrec_lite.architectures.record import Architecture, head_width
from delrec_lite.architectures.registry import (
    ARCHITECTURES,
    find_architecture,
    gguf_names,
    register_architecture,
    written_as,
)
from delrec_lite.architectures.rope import rope_of

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "check_base",
    "context_length",
    "find_architecture",
    "gguf_names",
    "head_width",
    "register_architecture",
    "rope_of",
    "written_as",
]
