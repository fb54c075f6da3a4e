"""From ranks to figures: HR@k, NDCG@k and MRR, one value a user, and their means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints

NAMES = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")


@dataclass(frozen=True)
class Ranks:
    """Where each user's target came, 1 for first.

    Attributes:
        m15: Among the user's candidate set, int64 ``[users]``.
        full: Among the whole catalogue without the items of the history, int64 ``[users]``; empty for a model that
            ranks candidates alone.
        seconds: Time to score all users.
    """

    m15: Ints
    full: Ints
    seconds: float

    @property
    def protocols(self) -> tuple[str, ...]:
        """Under which the model was asked."""
        return ("m15", "full") if len(self.full) else ("m15",)

    def of(self, protocol: str) -> Ints:
        """The ranks under ``m15`` or ``full``."""
        return self.m15 if protocol == "m15" else self.full

    def dump(self) -> dict[str, Any]:
        """As JSON; ``parse`` reads it back."""
        return {"m15": self.m15.tolist(), "full": self.full.tolist(), "seconds": self.seconds}

    @classmethod
    def parse(cls, held: Mapping[str, Any]) -> "Ranks":
        """What ``dump`` gave; raises KeyError, TypeError or ValueError for anything else."""
        return cls(np.array(held["m15"], np.int64), np.array(held["full"], np.int64), float(held["seconds"]))


def per_user(ranks: Ints, name: str) -> Floats:
    """A metric's value for each user: float32 ``[users]``.

    With one relevant item, NDCG@k is ``1 / log2(rank + 1)`` for ranks up to k, and 0 beyond.
    """
    ranks = np.asarray(ranks)
    if name == "MRR":
        return (1.0 / ranks).astype(np.float32)
    kind, _, k = name.partition("@")
    inside = ranks <= int(k)
    if kind == "HR":
        return inside.astype(np.float32)
    return np.where(inside, 1.0 / np.log2(ranks + 1), 0.0).astype(np.float32)
