"""Shares with their intervals, and the difference of two shares: of lists that were clicked, for example."""

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from delrec_lite.data.types import Ints

_Z = 1.959963984540054  # of 95%
_POWER = 0.8416212335729143  # of 80%
RESAMPLES = 4000


@dataclass(frozen=True)
class Share:
    """So many of so many.

    Attributes:
        count: Those that did.
        of: All.
        share: Their part; 0 where there are none at all.
        low: Lower bound of the 95% interval (Wilson).
        high: Upper bound of the same.
    """

    count: int
    of: int
    share: float
    low: float
    high: float


def wilson(count: int, of: int) -> Share:
    """A share with its 95% interval by Wilson (1927), which holds for few trials too; without any, it is all of it."""
    if of == 0:
        return Share(0, 0, 0.0, 0.0, 1.0)
    share, square = count / of, _Z**2
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * sqrt(share * (1 - share) / of + square / (4 * of**2))
    return Share(count, of, share, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True)
class Difference:
    """Of two shares, the second less the first.

    Attributes:
        difference: Of the shares.
        low: Lower bound of its 95% interval.
        high: Upper bound of the same.
        p: Two-sided p-value of no difference.
        detectable: The smallest true difference that data of this size find in 80 of 100 cases.
        method: ``two-proportion``, or ``bootstrap over callers`` where a caller has several lists.
    """

    difference: float
    low: float
    high: float
    p: float
    detectable: float
    method: str


def difference(first: Ints, second: Ints, seed: int = 0) -> Difference | None:
    """Compare the share of trials that succeeded in two groups of callers.

    Where each caller has one trial: the test of two proportions, with a pooled variance for the p-value. Else a
    caller's trials are alike, so whole callers are drawn again and again (bootstrap).

    Args:
        first: A row for each caller: trials that succeeded, and trials; int ``[callers, 2]``.
        second: Of the other group.
        seed: Of the bootstrap.

    Returns:
        None where a group has no trials.
    """
    totals = [group.sum(0) if len(group) else np.zeros(2, np.int64) for group in (first, second)]
    (hits_1, trials_1), (hits_2, trials_2) = ((int(total[0]), int(total[1])) for total in totals)
    if not trials_1 or not trials_2:
        return None
    share_1, share_2 = hits_1 / trials_1, hits_2 / trials_2
    gap = share_2 - share_1
    if max(int(first[:, 1].max()), int(second[:, 1].max())) == 1:
        method, pooled = "two-proportion", (hits_1 + hits_2) / (trials_1 + trials_2)
        error = sqrt(share_1 * (1 - share_1) / trials_1 + share_2 * (1 - share_2) / trials_2)
        null = sqrt(pooled * (1 - pooled) * (1 / trials_1 + 1 / trials_2))
        low, high = _newcombe(wilson(hits_1, trials_1), wilson(hits_2, trials_2))
    else:
        method, rng = "bootstrap over callers", np.random.default_rng(seed)
        gaps = _resampled(second, rng) - _resampled(first, rng)
        error = null = float(gaps.std())
        low, high = (float(bound) for bound in np.quantile(gaps, [0.025, 0.975]))
    p = erfc(abs(gap) / null / sqrt(2)) if null else 1.0
    return Difference(gap, low, high, p, (_Z + _POWER) * error, method)


def _newcombe(first: Share, second: Share) -> tuple[float, float]:
    """The interval of a difference from those of both shares (Newcombe 1998, method 10)."""
    gap = second.share - first.share
    low = gap - sqrt((second.share - second.low) ** 2 + (first.high - first.share) ** 2)
    high = gap + sqrt((second.high - second.share) ** 2 + (first.share - first.low) ** 2)
    return low, high


def _resampled(callers: Ints, rng: np.random.Generator) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Shares of ``RESAMPLES`` samples of as many callers; callers with equal rows are drawn together."""
    rows, counts = np.unique(callers, axis=0, return_counts=True)
    drawn = rng.multinomial(int(counts.sum()), counts / counts.sum(), RESAMPLES)
    sums = drawn @ rows
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return result
