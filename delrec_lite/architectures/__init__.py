"""Families of base models: a record each, their rotary positions, and the check before training. Needs numpy alone."""

from delrec_lite.architectures import families as families  # registers them
from delrec_lite.architectures.check import check_base, context_length
from delrec_lite.architectures.record import (
    ARCHITECTURES,
    Architecture,
    architecture,
    head_width,
    register,
    written_as,
)
from delrec_lite.architectures.rope import rope_of

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "architecture",
    "check_base",
    "context_length",
    "head_width",
    "register",
    "rope_of",
    "written_as",
]
