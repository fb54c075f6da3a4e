"""Candidate sets: one positive and m - 1 negatives per question, sampled once for all models."""

from dataclasses import replace

import numpy as np

from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.types import SPLITS as SPLITS
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import DataError

FEWER = "ask for fewer candidates"


def sample_candidates(dataset: Dataset, split: str, m: int, seed: int) -> CandidateSets:
    """Sample the candidates of all questions of a split (protocol of DELRec, section 5.1: m = 15).

    Negatives are uniform over the items that are not in the user's sequence; where repeats count, over all items but
    the positive, because the user's own items may be next, too. The position of the positive is random.

    Args:
        dataset: The data.
        split: ``valid`` or ``test``; each uses its own random stream.
        m: Candidates per question, at least 2.
        seed: Random seed.

    Raises:
        DataError: A user has fewer than m - 1 unseen items.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    questions = dataset.questions(split)
    sets = np.empty((len(questions), m), dtype=np.int64)
    previous, seen = -1, np.empty(0, dtype=np.int64)
    for row, (user, target) in enumerate(questions.tolist()):
        sequence = dataset.sequences[user]
        if user != previous:
            previous, seen = user, np.unique(sequence)
        if dataset.repeats:
            seen = sequence[target : target + 1]
        unseen = len(dataset.catalog) - len(seen)
        if unseen < m - 1:
            raise DataError(
                f"user {dataset.user_ids[user]!r} has {unseen} unseen items, {m - 1} negatives are needed",
                FEWER,
            )
        # Finds the n-th unseen item without a list of all unseen items: with 50,000 items, such lists take minutes.
        chosen = rng.choice(unseen, m - 1, replace=False)
        sets[row, 1:] = chosen + np.searchsorted(seen - np.arange(len(seen)), chosen, side="right")
        position = rng.integers(m)
        sets[row, 0] = sets[row, position]
        sets[row, position] = sequence[target]
    return CandidateSets(split, sets, seed)


def sampled_users(dataset: Dataset, count: int | None, seed: int) -> tuple[int, ...] | None:
    """Indices of ``count`` users with questions, drawn at random, ascending; None: all of them.

    Args:
        dataset: The data; its ``asked`` is not heeded.
        count: How many users; None: all.
        seed: Random seed; the stream is another one than those of the candidate sets.
    """
    if count is None:
        return None
    dataset = replace(dataset, asked=None)
    users = np.unique(np.concatenate([dataset.questions(split)[:, 0] for split in SPLITS]))
    if len(users) <= count:
        return None
    rng = np.random.default_rng([seed, len(SPLITS)])
    return tuple(np.sort(rng.choice(users, count, replace=False)).tolist())


def users_to_leave_out(dataset: Dataset, m: int) -> tuple[int, ...]:
    """Indices of users with fewer than m - 1 unseen items; nobody where repeats count.

    Raises:
        DataError: All users, or the catalogue has fewer than m items.
    """
    items = len(dataset.catalog)
    if dataset.repeats:
        if items < m:
            raise DataError(f"{dataset.name} has {items} items, {m} candidates are needed", FEWER)
        return ()
    # A user's distinct items are counted only where the length does not rule it out.
    unseen = items - lengths_of(dataset.sequences)
    for user in np.flatnonzero(unseen < m - 1).tolist():
        unseen[user] = items - len(np.unique(dataset.sequences[user]))
    few = np.flatnonzero(unseen < m - 1)
    if len(few) == len(unseen):
        most = int(np.argmax(unseen))
        if not unseen[most]:
            raise DataError(
                f"every user of {dataset.name} has every item, so there are no unseen items to rank",
                "count repeats with --repeats, or give a log with more items",
            )
        raise DataError(
            f"no user has {m - 1} unseen items, which are needed as negatives: user {dataset.user_ids[most]!r} has "
            f"{unseen[most]} unseen items, no other has more",
            f"{FEWER}, at most {unseen[most] + 1}",
        )
    return tuple(few.tolist())
