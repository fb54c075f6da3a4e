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
        alike: Whether the same scores gave both, so that means over all draws follow from ``full``.
    """

    m15: Ints
    full: Ints
    seconds: float
    alike: bool = True

    @property
    def protocols(self) -> tuple[str, ...]:
        """Under which the model was asked."""
        return ("m15", "full") if len(self.full) else ("m15",)

    def of(self, protocol: str) -> Ints:
        """The ranks under ``m15`` or ``full``."""
        return self.m15 if protocol == "m15" else self.full

    def dump(self) -> dict[str, Any]:
        """As JSON; ``parse`` reads it back."""
        apart = {} if self.alike else {"alike": False}
        return {"m15": self.m15.tolist(), "full": self.full.tolist(), "seconds": self.seconds, **apart}

    @classmethod
    def parse(cls, held: Mapping[str, Any]) -> "Ranks":
        """What ``dump`` gave; raises KeyError, TypeError or ValueError for anything else."""
        m15, full = (np.array(held[name], np.int64) for name in ("m15", "full"))
        return cls(m15, full, float(held["seconds"]), bool(held.get("alike", True)))


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
