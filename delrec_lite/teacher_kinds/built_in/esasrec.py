"""eSASRec: its settings and its record."""

from delrec_lite.teacher_kinds.built_in.sasrec import SASRecConfig
from delrec_lite.teacher_kinds.registry import TeacherKind


class ESASRecConfig(SASRecConfig):
    """Settings of eSASRec: those of SASRec. Its ``negatives`` are drawn uniformly and not weighted, as in its paper."""


KIND = TeacherKind(
    name="esasrec",
    label="eSASRec",
    settings=ESASRecConfig,
    network="delrec_lite.teachers.esasrec:ESASRec",
    source="Tikhonovich et al., 2025, arXiv 2508.06450",
)
