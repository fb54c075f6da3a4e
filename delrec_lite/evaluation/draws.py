"""HR@k, NDCG@k and MRR among m candidates, without the luck of the draw: the mean over all candidate sets.

Of a user's unseen items, the ranking of the whole catalogue tells how many score above the target. How many of these
come among m - 1 negatives drawn at random is hypergeometric, so the mean over every set that could have been drawn
follows from the rank alone (how sampled metrics relate to full ones: Krichene and Rendle, KDD 2020). The same figure
as with one set a user, without the set's chance: on MovieLens-100K the standard error of a difference between two
models is less than half.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from delrec_lite.data.types import Dataset, Floats, Ints


@dataclass(frozen=True)
class Draws:
    """How candidate sets are drawn.

    Attributes:
        pools: Unseen items that each user's negatives come from, int64 ``[users]``.
        negatives: m - 1.
    """

    pools: Ints
    negatives: int

    @classmethod
    def of(cls, dataset: Dataset, m: int) -> "Draws | None":
        """Of the test users under leave-one-out; None where a user's sequence is more than history and target."""
        if dataset.cuts is not None:
            return None
        unseen = [len(dataset.catalog) - len(np.unique(sequence)) for sequence in dataset.sequences]
        questions = dataset.questions("test")
        return cls(np.array(unseen, np.int64)[questions[:, 0]], m - 1)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"pools": self.pools.tolist(), "negatives": self.negatives}

    def per_user(self, full: Ints, name: str) -> Floats:
        """A metric's mean over all candidate sets, for each user.

        Args:
            full: Ranks among the whole catalogue without the history, int64 ``[users]``.
            name: As in ``metrics.per_user``.

        Returns:
            float32 ``[users]``.
        """
        above, pools, n = np.asarray(full) - 1, self.pools, self.negatives
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pools.max() + 1)))])

        def ways(of: Ints, chosen: int) -> Any:
            """Logarithm of how many ways there are to choose; minus infinity for none."""
            could = of >= chosen
            some = np.where(could, of, chosen)
            return np.where(could, logs[some] - logs[chosen] - logs[some - chosen], -np.inf)

        chance = np.exp([ways(above, x) + ways(pools - above, n - x) - ways(pools, n) for x in range(n + 1)])
        places = np.arange(n + 1)  # of the target, 0 for first
        kind, _, k = name.partition("@")
        worth = {"HR": np.ones(n + 1), "NDCG": 1 / np.log2(places + 2), "MRR": 1 / (places + 1)}[kind]
        if k:
            worth = worth * (places < int(k))
        means: Floats = (worth @ chance).astype(np.float32)
        return means
