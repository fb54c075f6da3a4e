"""The export gate: the exported model must score like the trained model."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import GateError


@dataclass(frozen=True)
class Parity:
    """Agreement of the scores of two models over some users.

    Attributes:
        users: Number of users.
        score_correlation: Mean over users of Pearson's correlation over the catalogue.
        top10_overlap: Mean share of the first ten items that are the same.
        top1_same: Share of users with the same first item.
        max_difference: Largest difference of two scores, in standard deviations of a user's scores.
    """

    users: int
    score_correlation: float
    top10_overlap: float
    top1_same: float
    max_difference: float

    def dump(self) -> dict[str, Any]:
        """For the manifest."""
        return {key: round(value, 5) for key, value in asdict(self).items()}


def compare_scores(trained: Floats, exported: Floats) -> Parity:
    """Compare scores of the same histories: both float32 ``[users, items]``."""
    a = trained - trained.mean(1, keepdims=True)
    b = exported - exported.mean(1, keepdims=True)
    correlation = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    k = min(10, trained.shape[1])
    top_a, top_b = np.argsort(-trained, 1)[:, :k], np.argsort(-exported, 1)[:, :k]
    overlap = [len(np.intersect1d(x, y)) / k for x, y in zip(top_a, top_b, strict=True)]
    return Parity(
        users=len(trained),
        score_correlation=float(correlation.mean()),
        top10_overlap=float(np.mean(overlap)),
        top1_same=float((top_a[:, 0] == top_b[:, 0]).mean()),
        max_difference=float(np.max(np.abs(a - b) / a.std(1, keepdims=True))),
    )


def gate(parity: Parity, score_correlation: float | None, quant: str) -> None:
    """Check the correlation of scores against the limit ``score_correlation``; None: no limit.

    Raises:
        GateError: The mean correlation of scores is below ``score_correlation``.
    """
    if score_correlation is not None and not parity.score_correlation >= score_correlation:
        raise GateError(
            f"the {quant} model's scores correlate {parity.score_correlation:.4f} with the trained model's; "
            f"the recipe requires {score_correlation}",
            "choose a finer `export.quant` in the recipe (q8_0, f16), or export with --no-gate",
        )
