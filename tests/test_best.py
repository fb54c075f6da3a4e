"""The best of many scores are those of a stable sort, whatever the scores are."""

import numpy as np
import pytest

from delrec_lite.evaluation.best import LARGE, STRIDE, best

N = LARGE + 7
RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(N).astype(np.float32)
PLACES = np.arange(N)
CASES = {
    "few": NORMAL[:50],
    "normal": NORMAL,
    "ties": RNG.integers(0, 30, N).astype(np.float32),
    "equal": np.zeros(N, np.float32),
    "rising": PLACES.astype(np.float32),
    "falling": -PLACES.astype(np.float32),
    "the sample alone is good": NORMAL + 9 * (PLACES % STRIDE == 0),
    "the sample is bad": NORMAL - 9 * (PLACES % STRIDE == 0),
    "hardly any": np.where(PLACES % 999 == 0, NORMAL, -np.inf),
    "not numbers": np.where(PLACES % 3 == 0, np.nan, NORMAL),
}


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_a_stable_sort(name):
    scores = CASES[name].astype(np.float32)
    expected = np.argsort(-scores, kind="stable")
    for k in (1, 10, 700, N // STRIDE, N - 1, N, N + 5):
        np.testing.assert_array_equal(best(scores, k), expected[:k])
