"""Uncertainty of metrics: bootstrap intervals over users, and paired tests between two models."""

from dataclasses import dataclass

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import DataError, MissingPackageError, install_line

RESAMPLES = 2000


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same users.

    Attributes:
        difference: Mean of the first minus mean of the second.
        low: Lower bound of the difference's 95% bootstrap interval.
        high: Upper bound of the same.
        p: Two-sided p-value.
        method: ``mcnemar-exact`` for metrics of 0 and 1, else ``sign-flip permutation``.
    """

    difference: float
    low: float
    high: float
    p: float
    method: str


def interval(values: Floats, seed: int = 0, n: int = RESAMPLES) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean over users, from ``n`` resamples."""
    rng = np.random.default_rng(seed)
    sizes = [min(100, n - start) for start in range(0, n, 100)]  # 100 at a time saves memory with many users
    means = np.concatenate([values[rng.integers(0, len(values), (size, len(values)))].mean(1) for size in sizes])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_test(a: Floats, b: Floats, seed: int = 0) -> PairedTest:
    """Test whether two models differ on the same users.

    Metrics of 0 and 1 (HR@k): the exact McNemar test on the users where they differ. Others: a permutation test
    that flips the signs of the users' differences, 10,000 times.

    Raises:
        DataError: The two have different numbers of users.
        MissingPackageError: The metrics are 0 and 1, and scipy is not installed.
    """
    if len(a) != len(b):
        raise DataError(f"a paired test of {len(a)} users against {len(b)}", "rank the same users with both models")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = interval(difference.astype(np.float32), seed)
    if set(np.unique([a, b])) <= {0.0, 1.0}:
        wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
        return PairedTest(float(difference.mean()), low, high, mcnemar(wins, losses), "mcnemar-exact")
    rng = np.random.default_rng(seed)
    observed, beyond, rounds = abs(difference.mean()), 0, 100
    for _ in range(rounds):
        signs = rng.choice([-1.0, 1.0], (100, len(difference)))
        beyond += int((np.abs((signs * difference).mean(1)) >= observed - 1e-12).sum())
    p = (beyond + 1) / (rounds * 100 + 1)
    return PairedTest(float(difference.mean()), low, high, float(p), "sign-flip permutation")


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p of ``wins`` against ``losses`` under a fair coin.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    if wins == losses:  # also if the two never differ
        return 1.0
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise MissingPackageError(
            "the exact McNemar test needs scipy, which is not installed", install_line("scipy")
        ) from error
    return float(binomtest(wins, wins + losses).pvalue)
