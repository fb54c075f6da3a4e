"""Caser: its settings and its record."""

from pydantic import PositiveFloat, PositiveInt

from delrec_lite.teacher_kinds.registry import TeacherKind
from delrec_lite.teacher_kinds.settings import TeacherConfig


class CaserConfig(TeacherConfig):
    """Settings of Caser.

    NDCG@10, measured as for SASRec: 0.0726; 0.0712 and 0.0708 with windows of 5 and 6 items.

    Attributes:
        window: L, the number of last items that the convolutions see.
        filters: Number of horizontal filters of each height.
        vertical: Number of vertical filters.
    """

    lr: PositiveFloat = 3e-3
    epochs: PositiveInt = 15
    window: PositiveInt = 8
    filters: PositiveInt = 16
    vertical: PositiveInt = 4


KIND = TeacherKind(
    name="caser",
    label="Caser",
    settings=CaserConfig,
    network="delrec_lite.teachers.caser:Caser",
    source="Tang and Wang, 2018, arXiv 1809.07426",
)
