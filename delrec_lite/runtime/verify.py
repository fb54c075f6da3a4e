"""`verify`: is a bundle what was exported, and does it answer here as it did there?"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite.errors import BundleError
from delrec_lite.runtime.bundle import REMEDY
from delrec_lite.runtime.golden import Golden, answers, read_golden
from delrec_lite.runtime.recommender import Recommender

# Another processor adds up in another order; scores of one request span about 30.
LEAST_OVERLAP = 0.95
MOST_DIFFERENCE = 0.5


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        name: Of the bundle.
        files: How many were hashed.
        bytes: Their size.
        requests: Stored ones that were asked again.
        top10_overlap: Mean share of the stored first ten that come out again.
        largest_difference: Between a stored score and today's.
        gated: Whether export compared it with the trained model.
    """

    name: str
    files: int
    bytes: int
    requests: int
    top10_overlap: float
    largest_difference: float
    gated: bool

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(path: str | os.PathLike[str], threads: int | None = None) -> Verified:
    """Hash every file, open the model, ask the stored requests and compare with the stored answers.

    Args:
        path: The bundle's folder.
        threads: Default: the cores allowed.

    Raises:
        BundleError: A file is not the one that was exported, the model does not open, or its answers differ.
    """
    with Recommender.load(path, threads) as recommender:
        bundle = recommender.bundle
        golden = read_golden(bundle.folder, bundle.trained)
        if golden.top is None:
            raise BundleError(f"{bundle.folder} stores no answers to compare with", "export the run again")
        overlap, difference = _compare(golden, recommender)
    files = bundle.manifest["files"].values()
    found = Verified(
        bundle.name,
        len(files),
        sum(int(file["bytes"]) for file in files),
        len(golden.histories),
        round(overlap, 4),
        round(difference, 4),
        bool(bundle.manifest.get("gated")),
    )
    if overlap < LEAST_OVERLAP or not difference <= MOST_DIFFERENCE:
        raise BundleError(
            f"{bundle.folder} answers otherwise than when it was exported: {overlap:.0%} of the first ten the same, "
            f"scores differ by up to {difference:.2f}",
            f"{REMEDY}; if it stays so, this llama.cpp build computes something else",
        )
    return found


def _compare(golden: Golden, recommender: Recommender) -> tuple[float, float]:
    """Mean overlap of the first ten, and the largest difference of their scores."""
    assert golden.top is not None
    assert golden.scores is not None
    scores = answers(recommender, golden)
    k = golden.top.shape[1]
    today = np.argsort(-scores, axis=1)[:, :k]
    overlap = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(today, golden.top, strict=True)])
    difference = np.abs(np.take_along_axis(scores, golden.top, 1) - golden.scores).max()
    return float(overlap), float(difference)
