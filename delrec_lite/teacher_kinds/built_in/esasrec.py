"""eSASRec: its settings and its record."""

from pydantic import NonNegativeInt

from delrec_lite.teacher_kinds.built_in.sasrec import SASRecConfig
from delrec_lite.teacher_kinds.registry import TeacherKind


class ESASRecConfig(SASRecConfig):
    """Settings of eSASRec: SASRec's, and its loss.

    Attributes:
        negatives: Items drawn at each step that the loss compares with, shared by all positions; 0: the whole
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
