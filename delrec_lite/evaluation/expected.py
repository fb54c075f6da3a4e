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

from delrec_lite.data.types import Floats, Ints, Split


@dataclass(frozen=True)
class ExpectedSampledMetrics:
    """How candidate sets are drawn.

    Attributes:
        pools: Items that each user had not had by then and that negatives come from, int64 ``[users]``.
        negatives: m - 1.
    """

    pools: Ints
    negatives: int

    @classmethod
    def of(cls, split: Split, items: int, m: int) -> "ExpectedSampledMetrics":
        """From all items but history and target, as the whole catalogue is ranked.

        Where more comes after the target (validation users, a split by time) the sets that were drawn avoid that too;
        these do not.

        Args:
            split: Histories and targets.
            items: In the catalogue.
            m: Candidates of a set, the target among them.
        """
        had = [len(np.union1d(h, [target])) for h, target in zip(split.histories, split.targets.tolist(), strict=True)]
        return cls(items - np.array(had, np.int64), m - 1)

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
        drawn = np.minimum(n, pools)  # a user of a tiny catalogue may have fewer unseen items
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pools.max() + 1)))])

        def ways(of: Ints, chosen: Ints) -> Any:
            """Logarithm of how many ways there are to choose; minus infinity for none."""
            could = (chosen >= 0) & (of >= chosen)
            some, few = np.where(could, of, 0), np.where(could, chosen, 0)
            return np.where(could, logs[some] - logs[few] - logs[some - few], -np.inf)

        of_all = ways(pools, drawn)
        each = (np.full_like(pools, x) for x in range(n + 1))
        chance = np.exp([ways(above, x) + ways(pools - above, drawn - x) - of_all for x in each])
        places = np.arange(n + 1)  # of the target, 0 for first
        kind, _, k = name.partition("@")
        worth = {"HR": np.ones(n + 1), "NDCG": 1 / np.log2(places + 2), "MRR": 1 / (places + 1)}[kind]
        if k:
            worth = worth * (places < int(k))
        means: Floats = (worth @ chance).astype(np.float32)
        return means
