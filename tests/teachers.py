"""For tests of teachers: a data set that is quickly learned, small settings, and a teacher from outside the package."""

import numpy as np
from torch import nn

from delrec_lite.data.types import Catalog, Dataset
from delrec_lite.teacher_kinds.registry import TEACHERS, TeacherKind, register_teacher
from delrec_lite.teacher_kinds.settings import TeacherConfig
from delrec_lite.teachers.contract import Network

ITEMS = 21  # the last one is never seen
TINY: dict[str, int | float] = {
    "hidden": 16, "max_length": 6, "lr": 0.02, "batch": 16, "epochs": 12, "patience": 12, "dropout": 0.1
}  # fmt: skip


def circle(users: int = 40) -> Dataset:
    """After item i comes item i + 1, around a circle of 20."""
    sequences = tuple((np.arange(5 + user % 8) + user) % (ITEMS - 1) for user in range(users))
    names = tuple(str(n) for n in range(ITEMS))
    return Dataset("circle", Catalog(names, names), tuple(str(n) for n in range(users)), sequences, "0")


def tiny(kind: str, **settings: int | float) -> TeacherConfig:
    """Small settings of a kind, changed by ``settings``."""
    return TEACHERS[kind].configure(**TINY | settings)


class Toy(Network):
    """Reads the last item by a map, and the sum of all so far."""

    def __init__(self, config: TeacherConfig, items: int) -> None:
        super().__init__(config, items)
        self.last = nn.Linear(config.hidden, config.hidden)
        self.drop = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden)

    def states(self, items):
        x = self.drop(self.items[items] * self.config.hidden**0.5)
        return self.norm(self.last(x) + 0.1 * x.cumsum(1))


TOY = register_teacher(TeacherKind("toy", "Toy", TeacherConfig, Toy))
