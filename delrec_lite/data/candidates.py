"""Candidate sets: one positive and m - 1 unseen negatives per question, sampled once and shared by every row."""

import numpy as np

from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import DataError

SPLITS = ("valid", "test")


def sample_candidates(dataset: Dataset, split: str, m: int, seed: int) -> CandidateSets:
    """Sample the candidates of all questions of a split (protocol of DELRec, section 5.1: m = 15).

    Negatives are uniform over the items that are nowhere in the user's sequence; the positive's place is
    random.

    Args:
        dataset: The data.
        split: ``valid`` or ``test``; each has random numbers of its own.
        m: Candidates per question, at least 2.
        seed: Of the sampling.

    Raises:
        DataError: A user has seen so many items that fewer than m - 1 are left.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    questions = dataset.questions(split)
    sets = np.empty((len(questions), m), dtype=np.int64)
    known, seen = -1, np.empty(0, dtype=np.int64)
    for row, (user, at) in enumerate(questions.tolist()):
        sequence = dataset.sequences[user]
        if user != known:
            known, seen = user, np.unique(sequence)
        unseen = len(dataset.catalog) - len(seen)
        if unseen < m - 1:
            raise DataError(
                f"user {dataset.user_ids[user]!r} has {unseen} unseen items, {m - 1} negatives are wanted",
                "ask for fewer candidates",
            )
        # The n-th unseen item without a list of all: of 50,000 items, for each user, that would take minutes.
        chosen = rng.choice(unseen, m - 1, replace=False)
        sets[row, 1:] = chosen + np.searchsorted(seen - np.arange(len(seen)), chosen, side="right")
        place = rng.integers(m)
        sets[row, 0] = sets[row, place]
        sets[row, place] = sequence[at]
    return CandidateSets(split, sets, seed)
