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
        sampled: Among the user's candidate set, int64 ``[users]``.
        full: Among the whole catalogue without the items of the history, int64 ``[users]``; empty for a model that
            ranks candidates alone.
        seconds: Time to score all users.
        same_scores: Whether the same scores gave both, so that the metrics expected over all candidate sets follow
            from ``full``.
        precision: What a torch LLM was computed in; empty for other models.
    """

    sampled: Ints
    full: Ints
    seconds: float
    same_scores: bool = True
    precision: str = ""

    @property
    def protocols(self) -> tuple[str, ...]:
        """Under which the model was asked."""
        return ("sampled", "full") if len(self.full) else ("sampled",)

    def of(self, protocol: str) -> Ints:
        """The ranks under ``sampled`` or ``full``."""
        return self.sampled if protocol == "sampled" else self.full

    def dump(self) -> dict[str, Any]:
        """As JSON; ``parse`` reads it back."""
        apart: dict[str, Any] = {} if self.same_scores else {"same_scores": False}
        if self.precision:
            apart["precision"] = self.precision
        return {"sampled": self.sampled.tolist(), "full": self.full.tolist(), "seconds": self.seconds, **apart}

    @classmethod
    def parse(cls, held: Mapping[str, Any]) -> "Ranks":
        """What ``dump`` gave; raises KeyError, TypeError or ValueError for anything else."""
        sampled, full = (np.array(held[name], np.int64) for name in ("sampled", "full"))
        return cls(
            sampled,
            full,
            float(held["seconds"]),
            bool(held.get("same_scores", True)),
            str(held.get("precision", "")),
        )


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
