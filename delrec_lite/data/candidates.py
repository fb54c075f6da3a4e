"""Candidate sets: one positive and m - 1 unseen negatives per user, sampled once and shared by every row."""

import numpy as np

from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import DataError

SPLITS = ("valid", "test")


def sample_candidates(dataset: Dataset, split: str, m: int, seed: int) -> CandidateSets:
    """Sample the candidates of all users of a split (protocol of DELRec, section 5.1: m = 15).

    Negatives are uniform over the items that are nowhere in the user's sequence; the positive's place is
    random.

    Args:
        dataset: The data.
        split: ``valid`` or ``test``; each has random numbers of its own.
        m: Candidates per user, at least 2.
        seed: Of the sampling.

    Raises:
        DataError: A user has seen so many items that fewer than m - 1 are left.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    targets = (dataset.valid() if split == "valid" else dataset.test()).targets
    sets = np.empty((len(targets), m), dtype=np.int64)
    unseen = np.ones(len(dataset.catalog), dtype=bool)
    for row, (sequence, target) in enumerate(zip(dataset.sequences, targets, strict=True)):
        unseen[sequence] = False
        pool = np.flatnonzero(unseen)
        unseen[sequence] = True
        if len(pool) < m - 1:
            raise DataError(
                f"user {dataset.user_ids[row]!r} has {len(pool)} unseen items, {m - 1} negatives are wanted",
                "ask for fewer candidates",
            )
        sets[row, 1:] = rng.choice(pool, m - 1, replace=False)
        place = rng.integers(m)
        sets[row, 0] = sets[row, place]
        sets[row, place] = target
    return CandidateSets(split, sets, seed)
