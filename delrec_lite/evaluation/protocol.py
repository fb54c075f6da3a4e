"""The two protocols: rank the target among m candidates, and in the whole catalogue."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from delrec_lite.console import QUIET, Console
from delrec_lite.data.types import Bools, CandidateSets, Floats, Ints, Split
from delrec_lite.errors import DataError
from delrec_lite.evaluation.best import best
from delrec_lite.evaluation.metrics import LIST_LENGTH, Lists, Ranks

Scorer = Callable[[Sequence[Ints]], Floats]
CandidateScorer = Callable[[Sequence[Ints], Ints], Floats]


def rank_all(
    scorer: Scorer,
    split: Split,
    candidates: CandidateSets,
    batch: int = 16,
    console: Console = QUIET,
    label: str = "evaluate",
) -> Ranks:
    """Score every user once, rank the target under both protocols and keep the first items.

    Args:
        scorer: Histories to scores of the whole catalogue, float32 ``[histories, items]``.
        split: Histories and targets.
        candidates: Of the same split and users.
        batch: Users scored together.
        console: Shows the progress bar.
        label: Of the progress bar.

    Raises:
        DataError: No users, candidates of other users, or a score that is not a number.
    """
    _check(split, candidates)
    sampled, full, lists = [], [], []
    start = time.monotonic()
    with console.progress(label, len(split)) as tick:
        for at in range(0, len(split), batch):
            histories = split.histories[at : at + batch]
            scores = scorer(histories)
            targets = split.targets[at : at + batch]
            sampled.append(
                candidate_ranks(
                    np.take_along_axis(scores, candidates.items[at : at + batch], 1),
                    candidates.items[at : at + batch],
                    targets,
                )
            )
            full.append(catalogue_ranks(scores, histories, targets, split.repeats))
            lists.append(best_lists(scores, histories, targets, split.repeats))
            tick(len(histories))
    seconds = time.monotonic() - start
    return Ranks(np.concatenate(sampled), np.concatenate(full), seconds, lists=np.concatenate(lists))


def rank_candidates(
    scorer: CandidateScorer,
    split: Split,
    candidates: CandidateSets,
    batch: int = 16,
    console: Console = QUIET,
    label: str = "evaluate",
) -> Ints:
    """Rank the target among m candidates only, for a model that can't score a whole catalogue.

    Args:
        scorer: Histories and their candidates, int64 ``[histories, m]``, to scores, float32 ``[histories, m]``.
        split: Histories and targets.
        candidates: Of the same split and users.
        batch: Users scored together.
        console: Shows the progress bar.
        label: Of the progress bar.

    Returns:
        Ranks, int64 ``[users]``.

    Raises:
        DataError: No users, candidates of other users, or a score that is not a number.
    """
    _check(split, candidates)
    ranks = []
    with console.progress(label, len(split)) as tick:
        for at in range(0, len(split), batch):
            histories, items = split.histories[at : at + batch], candidates.items[at : at + batch]
            ranks.append(candidate_ranks(scorer(histories, items), items, split.targets[at : at + batch]))
            tick(len(histories))
    return np.concatenate(ranks)


def rank_chosen(
    scorer: CandidateScorer,
    split: Split,
    candidates: CandidateSets,
    console: Console = QUIET,
    label: str = "evaluate",
) -> Ranks:
    """``rank_candidates``, timed; ``Ranks.full`` is empty."""
    start = time.monotonic()
    ranks = rank_candidates(scorer, split, candidates, console=console, label=label)
    return Ranks(ranks, np.empty(0, np.int64), time.monotonic() - start)


def _check(split: Split, candidates: CandidateSets) -> None:
    if not len(split):
        raise DataError(f"the {split.name} split has no users", "prepare the data set again")
    if candidates.split != split.name or len(candidates.items) != len(split):
        raise DataError(
            f"{len(candidates.items)} candidate sets of {candidates.split!r} for {len(split)} users of {split.name!r}",
            "take the candidate sets of the same data set and split",
        )


def candidate_ranks(scores: Floats, items: Ints, targets: Ints) -> Ints:
    """Ranks of the targets among their candidates.

    Args:
        scores: Of the candidates, ``[users, m]``.
        items: The candidates, ``[users, m]``, each target once in its row.
        targets: ``[users]``.
    """
    is_target = items == targets[:, None]
    if not (is_target.sum(1) == 1).all():
        raise DataError("a candidate set does not contain its target exactly once", "prepare the data set again")
    return ranks_of(scores, scores[is_target], np.ones_like(is_target))


def catalogue_ranks(scores: Floats, histories: Sequence[Ints], targets: Ints, repeats: bool = False) -> Ints:
    """Ranks of the targets in the catalogue.

    Args:
        scores: ``[users, items]``.
        histories: Items that are not ranked, except the target itself.
        targets: ``[users]``.
        repeats: Items of the history are ranked, too.
    """
    ranked = ranked_items(scores, histories, targets, repeats)
    return ranks_of(scores, scores[np.arange(len(targets)), targets], ranked)


def best_lists(
    scores: Floats, histories: Sequence[Ints], targets: Ints, repeats: bool = False, k: int = LIST_LENGTH
) -> Lists:
    """The first items of each user among those that ``catalogue_ranks`` ranks; of equal scores the earlier items.

    Returns:
        int32 ``[users, k]``, best first, -1 where fewer items are ranked.
    """
    ranked = ranked_items(scores, histories, targets, repeats)
    lists = np.full((len(targets), k), -1, np.int32)
    for row, (own_scores, is_ranked) in enumerate(zip(scores, ranked, strict=True)):
        items = np.flatnonzero(is_ranked)
        chosen = items[best(own_scores[items], k)]
        lists[row, : len(chosen)] = chosen
    return lists


def ranked_items(scores: Floats, histories: Sequence[Ints], targets: Ints, repeats: bool) -> Bools:
    """Which items take part in a ranking of the catalogue: see ``catalogue_ranks``; bool ``[users, items]``."""
    ranked = np.ones(scores.shape, dtype=bool)
    for row, history in enumerate(() if repeats else histories):
        ranked[row, history] = False
    ranked[np.arange(len(targets)), targets] = True
    return ranked


def ranks_of(scores: Floats, target_scores: Floats, ranked: Bools) -> Ints:
    """1 + items scored above + half of those scored the same, rounded up: ties are not broken by order.

    Args:
        scores: ``[users, n]``.
        target_scores: ``[users]``.
        ranked: Which scores take part, bool ``[users, n]``.
    """
    if not np.isfinite(scores).all():
        raise DataError("a model gave a score that is not a number", "its training went wrong: lower the learning rate")
    above = ((scores > target_scores[:, None]) & ranked).sum(1)
    same = ((scores == target_scores[:, None]) & ranked).sum(1) - 1
    ranks: Ints = 1 + above + (same + 1) // 2
    return ranks
