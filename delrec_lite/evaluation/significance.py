"""Uncertainty of metrics: bootstrap intervals over users, and paired tests between two models."""

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import Floats
from delrec_lite.errors import DataError, MissingPackageError, install_line

RESAMPLES = 2000
FLIPS = 10_000
# Numbers drawn at once, which bounds the memory.
DRAWN = 1 << 22
# With more users the mean is normal for every purpose here, and resampling would take minutes.
MANY_USERS = 200_000
Doubles = npt.NDArray[np.float64]
_Z = 1.959963984540054  # of 95%


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same users.

    Attributes:
        difference: Mean of the first minus mean of the second.
        low: Lower bound of the difference's 95% bootstrap interval.
        high: Upper bound of the same.
        p: Two-sided p-value.
        method: ``mcnemar-exact`` for metrics of 0 and 1, else ``sign-flip permutation`` or, for very many users,
            ``paired normal``.
    """

    difference: float
    low: float
    high: float
    p: float
    method: str


def interval(values: Floats | Doubles, seed: int = 0, n: int = RESAMPLES) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean over users, from ``n`` resamples.

    With more than ``MANY_USERS`` users, the normal interval instead, which is the same there.
    """
    if len(values) > MANY_USERS:
        half = _Z * float(np.std(values, dtype=np.float64)) / sqrt(len(values))
        mean = float(np.mean(values, dtype=np.float64))
        return mean - half, mean + half
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    few = 4 * len(distinct) <= len(values)  # as metrics of ranks have: how often each is drawn says all
    size = max(1, DRAWN // len(distinct if few else values))
    means = []
    for start in range(0, n, size):
        rows = min(size, n - start)
        if few:
            drawn = rng.multinomial(len(values), counts / len(values), rows)
            means.append(drawn @ distinct.astype(np.float64) / len(values))
        else:
            means.append(values[rng.integers(0, len(values), (rows, len(values)))].mean(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def paired_test(a: Floats, b: Floats, seed: int = 0) -> PairedTest:
    """Test whether two models differ on the same users.

    Metrics of 0 and 1 (HR@k): the exact McNemar test on the users where they differ. Others: a permutation test
    that flips the signs of the users' differences, 10,000 times; with more than ``MANY_USERS`` users, the normal
    distribution that this test tends to.

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
    if len(difference) > MANY_USERS:
        error = sqrt(float((difference**2).mean()) / len(difference))
        p = erfc(abs(float(difference.mean())) / error / sqrt(2)) if error else 1.0
        return PairedTest(float(difference.mean()), low, high, p, "paired normal")
    rng = np.random.default_rng(seed)
    observed, beyond, size = abs(difference.mean()), 0, min(100, max(1, DRAWN // len(difference)))
    for start in range(0, FLIPS, size):
        signs = rng.choice([-1.0, 1.0], (min(size, FLIPS - start), len(difference)))
        beyond += int((np.abs((signs * difference).mean(1)) >= observed - 1e-12).sum())
    p = (beyond + 1) / (FLIPS + 1)
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
