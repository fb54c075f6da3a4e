"""Beyond accuracy: coverage, concentration, novelty, popularity, diversity and calibration of the recommended lists.

Where RecTools has a metric of the same name, the value is the same (tests/test_beyond.py). Only the first items of each
user are read, so neither time nor memory depends on users times items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints, Split, evenly
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.metrics import LIST_LENGTH, Lists, Ranks
from delrec_lite.evaluation.significance import Doubles, interval

# Users whose lists' pairs of items are compared, evenly spaced.
PAIRED_USERS = 10_000
# Parts of the catalogue by popularity whose shares of the lists are counted.
FIFTHS = 5
_Z = 1.959963984540054  # of 95%


@dataclass(frozen=True)
class ListMetric:
    """A metric of recommended lists.

    Attributes:
        name: In files and tables, without the length of the lists.
        better: ``higher``, ``lower``, or empty where it depends on what is wanted.
        meaning: One sentence.
        column: Its header on the screen, where space is short; empty: not shown there.
    """

    name: str
    better: str
    meaning: str
    column: str = ""

    @property
    def key(self) -> str:
        """The name in files: ``novelty@10``."""
        return f"{self.name}@{LIST_LENGTH}"


METRICS = (
    ListMetric("coverage", "higher", "Share of the catalogue that is in at least one user's list.", "coverage"),
    ListMetric("Gini", "lower", "How unevenly the lists use the items: 0 all alike, 1 one item alone.", "Gini"),
    ListMetric(
        "novelty", "", "Mean of -log2 of the share of users who had the item: 1 more is half as known.", "novelty"
    ),
    ListMetric("popularity", "", "Mean number of training interactions of a recommended item.", "popularity"),
    ListMetric("serendipity", "higher", "Hits count the more, the less popular they are."),
    ListMetric("text diversity", "", "Mean distance of two items of a list by their texts: 1 - cosine.", "diversity"),
    ListMetric("co-occurrence diversity", "", "The same by the users who had both: 1 - cosine."),
    ListMetric("column diversity", "", "Mean number of features (genre, brand) that one of two items has alone."),
    ListMetric("miscalibration", "lower", "How far a list's categories are from the history's, in nats.", "miscalibr."),
)
BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95% interval over users."""

    value: float
    low: float
    high: float


def list_metrics(ranks: Ranks, split: Split, facts: ItemFacts) -> dict[str, Estimate]:
    """Every metric of a model's lists, by its key.

    Args:
        ranks: Of a split; without lists the result is empty.
        split: Its histories and targets.
        facts: Whose ``ItemFacts.of`` was given these lists.
    """
    lists, items = ranks.lists, len(facts.counts)
    if not len(lists):
        return {}
    values = {
        "novelty": novelty(lists, facts),
        "popularity": popularity(lists, facts.counts),
        "serendipity": serendipity(lists, split.targets, facts.counts),
        **diversities(lists[evenly(len(lists), PAIRED_USERS)], facts),
    }
    if facts.categories is not None:
        values["miscalibration"] = facts.categories.miscalibration(lists, split.histories)
    estimates = {"coverage": coverage(lists, items), "Gini": gini(lists, items)}
    estimates |= {name: of_mean(each) for name, each in values.items()}
    known = {name: estimate for name, estimate in estimates.items() if not np.isnan(estimate.value)}
    return {metric.key: known[metric.name] for metric in METRICS if metric.name in known}


def of_mean(values: Doubles) -> Estimate:
    """The mean over users that have a value, with its bootstrap interval; nan where none has."""
    known = values[~np.isnan(values)]
    return Estimate(float(known.mean()), *interval(known)) if len(known) else Estimate(np.nan, np.nan, np.nan)


def coverage(lists: Lists, items: int) -> Estimate:
    """Share of the catalogue in at least one list.

    The interval is the jackknife's over users, rather too wide than too narrow (Efron and Stein 1981). A bootstrap
    would draw some users twice and so always see fewer items.
    """
    counts = _counts(lists, items)
    covered = int((counts > 0).sum())
    alone = np.where(lists >= 0, counts[lists] == 1, False).sum(1)  # items that nobody else's list has
    error = sqrt(float(((alone - alone.mean()) ** 2).sum()))
    return Estimate(covered / items, max(0, covered - _Z * error) / items, min(items, covered + _Z * error) / items)


def gini(lists: Lists, items: int) -> Estimate:
    """Gini's index of how often each item of the catalogue is recommended; the interval is the delta method's."""
    counts = _counts(lists, items)
    total = max(1, int(counts.sum()))
    order = np.empty(items, np.int64)
    order[np.argsort(counts, kind="stable")] = np.arange(1, items + 1)
    index = float((2 * order - items - 1) @ counts / (items * total))
    # What one more recommendation of an item does to the index; equal counts share their mean place.
    places = np.bincount(counts, order)[counts] / np.bincount(counts)[counts]
    slope = (2 * places - items - 1) / (items * total) - index / total
    of_users = np.where(lists >= 0, slope[lists], 0).sum(1)
    error = sqrt(float(((of_users - of_users.mean()) ** 2).sum()))
    return Estimate(index, max(0.0, index - _Z * error), min(1.0, index + _Z * error))


def novelty(lists: Lists, facts: ItemFacts) -> Doubles:
    """Mean self-information of a list's items, in bits (RecTools: MeanInvUserFreq); a new item has one user."""
    return _mean(lists, -np.log2(np.maximum(facts.users, 1) / max(1, facts.all_users)))


def popularity(lists: Lists, counts: Ints) -> Doubles:
    """Mean training interactions of a list's items (RecTools: AvgRecPopularity)."""
    return _mean(lists, counts.astype(np.float64))


def serendipity(lists: Lists, targets: Ints, counts: Ints) -> Doubles:
    """How much further in front a hit stands than its popularity puts it, by list (RecTools: Serendipity)."""
    items = len(counts)
    levels = np.unique(counts[counts > 0])
    by_popularity = np.where(counts > 0, len(levels) - np.searchsorted(levels, counts), items + 1)
    users, places = np.nonzero(lists == targets[:, None])
    out = np.zeros(len(lists))
    gain = (by_popularity[targets[users]] - (places + 1)) / items
    out[users] = np.maximum(gain, 0) / (lists[users] >= 0).sum(1)
    return out


def diversities(lists: Lists, facts: ItemFacts) -> dict[str, Doubles]:
    """Mean distance of a list's pairs by text, by users who had both and, where there are columns, by these."""
    out = {
        "text diversity": intra_list(lists, facts.text_distances),
        "co-occurrence diversity": intra_list(lists, facts.together.cosine_distances),
    }
    if facts.columns is not None:
        out["column diversity"] = intra_list(lists, facts.columns.hamming_distances)
    return out


def intra_list(lists: Lists, distances: Callable[[Ints, Ints], Doubles]) -> Doubles:
    """Mean distance of two items of each list, 0 for a list of one, nan for none (RecTools: IntraListDiversity).

    Args:
        lists: See ``Ranks``.
        distances: Of pairs of items, int64 ``[pairs]`` each.

    Returns:
        float64 ``[users]``.
    """
    sums, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for first in range(lists.shape[1]):
        for second in range(first + 1, lists.shape[1]):
            has = np.flatnonzero(lists[:, second] >= 0)
            sums[has] += distances(lists[has, first].astype(np.int64), lists[has, second].astype(np.int64))
            pairs[has] += 1
    return np.where((lists >= 0).any(1), sums / np.maximum(pairs, 1), np.nan)


def popularity_shares(items: Ints | Lists, counts: Ints) -> list[float]:
    """Which share of some items belongs to each fifth of the catalogue, the most popular items first."""
    order = np.empty(len(counts), np.int64)
    order[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    items = items[items >= 0]
    fifths = np.bincount(order[items] * FIFTHS // len(counts), minlength=FIFTHS)
    return [round(float(n) / max(1, len(items)), 5) for n in fifths]


def most_recommended(lists: Lists, titles: Sequence[str], n: int = 5) -> list[dict[str, Any]]:
    """The items that are in most lists: ``title`` and the ``share`` of lists."""
    items, counts = np.unique(lists[lists >= 0], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:n]
    return [
        {"title": titles[item], "share": round(int(count) / len(lists), 5)}
        for item, count in zip(items[first].tolist(), counts[first].tolist(), strict=True)
    ]


def _counts(lists: Lists, items: int) -> Ints:
    counts: Ints = np.bincount(lists[lists >= 0], minlength=items)
    return counts


def _mean(lists: Lists, of_items: Doubles | Floats) -> Doubles:
    """The mean of a number of each item over each list; nan for an empty one."""
    has = lists >= 0
    with np.errstate(invalid="ignore"):
        means: Doubles = np.where(has, of_items[lists], 0).sum(1) / has.sum(1)
    return means
