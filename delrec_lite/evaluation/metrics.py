"""Metrics of ranks, one value for each user: HR@k, NDCG@k, MRR, Recall@k and MAP@k."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import Floats, Ints

NAMES = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")
# In files alone. A question has one relevant item, so Recall@k is HR@k, and MAP@k is the reciprocal rank up to k.
MORE_NAMES = ("Recall@5", "Recall@10", "MAP@5", "MAP@10")
# Items of the list that is kept for each user.
LIST_LENGTH = 10
Lists = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Ranks:
    """The rank of each user's target, 1 for first.

    Attributes:
        sampled: Among the user's candidate set, int64 ``[users]``; empty for lists that lack candidates.
        full: In the whole catalogue without the items of the history, int64 ``[users]``; empty for a model that
            ranks candidates only.
        seconds: Time to score all users.
        same_scores: Whether both come from the same scores, so that the metrics expected over all candidate sets
            follow from ``full``.
        precision: Precision in which a torch LLM computes; empty for other models.
        lists: The first items of the whole catalogue without those of the history, best first, int32
            ``[users, LIST_LENGTH]``, -1 where there are fewer; empty where ``full`` is. ``dump`` leaves them out.
    """

    sampled: Ints
    full: Ints
    seconds: float
    same_scores: bool = True
    precision: str = ""
    lists: Lists = field(default_factory=lambda: np.empty((0, LIST_LENGTH), np.int32))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that have ranks."""
        return tuple(name for name in ("sampled", "full") if len(self.of(name)))

    @property
    def users(self) -> int:
        """How many users were ranked."""
        return len(self.sampled) or len(self.full)

    def of(self, protocol: str) -> Ints:
        """The ranks under ``sampled`` or ``full``."""
        return self.sampled if protocol == "sampled" else self.full

    def dump(self) -> dict[str, Any]:
        """As JSON; ``parse`` reads it back."""
        optional: dict[str, Any] = {} if self.same_scores else {"same_scores": False}
        if self.precision:
            optional["precision"] = self.precision
        return {"sampled": self.sampled.tolist(), "full": self.full.tolist(), "seconds": self.seconds, **optional}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "Ranks":
        """Read the output of ``dump``; raises KeyError, TypeError or ValueError for anything else."""
        sampled, full = (np.array(fields[name], np.int64) for name in ("sampled", "full"))
        return cls(
            sampled,
            full,
            float(fields["seconds"]),
            bool(fields.get("same_scores", True)),
            str(fields.get("precision", "")),
        )


def per_user(ranks: Ints, name: str) -> Floats:
    """A metric's value for each user: float32 ``[users]``.

    With one relevant item, NDCG@k is ``1 / log2(rank + 1)`` for ranks up to k, and 0 beyond.
    """
    ranks = np.asarray(ranks)
    kind, _, k = name.partition("@")
    values = gains(kind, ranks)
    return (np.where(ranks <= int(k), values, 0.0) if k else values).astype(np.float32)


def gains(kind: str, ranks: Ints) -> npt.NDArray[np.float64]:
    """What a metric without its cutoff gives for each rank."""
    if kind in {"HR", "Recall"}:
        return np.ones(len(ranks))
    of_ranks: npt.NDArray[np.float64] = 1 / (np.log2(ranks + 1.0) if kind == "NDCG" else ranks)  # else MRR or MAP
    return of_ranks
