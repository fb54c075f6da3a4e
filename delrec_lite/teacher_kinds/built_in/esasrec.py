"""eSASRec: its settings and its record."""

from pydantic import NonNegativeInt

from delrec_lite.teacher_kinds.built_in.sasrec import SASRecConfig
from delrec_lite.teacher_kinds.registry import TeacherKind


class ESASRecConfig(SASRecConfig):
    """Settings of eSASRec: those of SASRec, and of its loss.

    Attributes:
        negatives: Negative items of the loss, sampled at each step and shared by all positions; 0: all items of the
            catalogue.
    """

    negatives: NonNegativeInt = 0


KIND = TeacherKind(
    name="esasrec",
    label="eSASRec",
    settings=ESASRecConfig,
    network="delrec_lite.teachers.esasrec:ESASRec",
    source="Tikhonovich et al., 2025, arXiv 2508.06450",
)
