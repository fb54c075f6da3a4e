"""`verify`: checks that a bundle is unchanged and gives the answers that it gave at export."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, MissingPackageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.golden import answers, read_golden
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.recommender import Recommender

# Another processor sums in another order; the scores of one request span about 30.
MIN_OVERLAP = 0.95
MAX_DIFFERENCE = 0.5


@dataclass(frozen=True)
class Verification:
    """The result of ``verify``.

    Attributes:
        name: Of the bundle.
        files: How many were hashed.
        bytes: Their size.
        models: Model files that were opened and compared.
        unopened: Model files whose engine is not installed here, and what is missing.
        requests: Stored requests that were answered again.
        top10_overlap: Mean share of the stored first ten that are among the first ten now; the lowest of all models.
        largest_difference: Between a stored score and the score now.
        gated: Whether export compared it with the trained model.
    """

    name: str
    files: int
    bytes: int
    models: list[str]
    unopened: dict[str, str]
    requests: int
    top10_overlap: float
    largest_difference: float
    gated: bool

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(path: str | os.PathLike[str], threads: int | None = None) -> Verification:
    """Hash every file, open every model, answer the stored requests and compare with the stored answers.

    Args:
        path: The bundle's folder.
        threads: Default: the cores allowed.

    Raises:
        BundleError: A file is not the one that was exported, a model does not open, or its answers differ.
        MissingPackageError: No model's engine is installed.
    """
    bundle = Bundle.open(path, verify_all=True)
    golden = read_golden(bundle.folder, bundle.trained)
    if golden.top is None or golden.scores is None:
        raise BundleError(f"{bundle.folder} stores no answers to compare with", "export the run again")
    models = bundle.models
    stored = {models[0].files[0]: (golden.top, golden.scores), **golden.other_models}
    lowest, largest = 1.0, 0.0
    unopened: dict[str, str] = {}
    for model in models:
        file, chosen = model.files[0], bundle.choose(model.quant, model.format)
        try:
            engine = open_engine(chosen, threads=threads)
        except MissingPackageError as error:
            unopened[file] = error.message
            if len(unopened) == len(models):
                raise
            continue
        with Recommender(chosen, engine) as recommender:
            scores = answers(recommender, golden)
        # A bundle of an older version stores no answers of a second model, so it is enough that it answers.
        overlap, difference = _overlap_and_difference(scores, *stored[file]) if file in stored else (1.0, 0.0)
        if overlap < MIN_OVERLAP or not difference <= MAX_DIFFERENCE or np.isnan(scores).any():
            raise BundleError(
                f"{bundle.folder / file} gives other answers than at export: {overlap:.0%} of the first ten are the "
                f"same, scores differ by up to {difference:.2f}",
                f"{REMEDY}; if that does not help, this build of the engine computes something else",
            )
        lowest, largest = min(lowest, overlap), max(largest, difference)
    files = bundle.manifest["files"].values()
    return Verification(
        bundle.name,
        len(files),
        sum(int(file["bytes"]) for file in files),
        [model.files[0] for model in models if model.files[0] not in unopened],
        unopened,
        len(golden.histories),
        round(lowest, 4),
        round(largest, 4),
        bool(bundle.manifest.get("gated")),
    )


def _overlap_and_difference(scores: Floats, top: Ints, stored: Floats) -> tuple[float, float]:
    """Mean overlap of the first ten, and the largest difference of their scores."""
    k = top.shape[1]
    top_now = np.argsort(-scores, axis=1)[:, :k]
    overlap = np.mean([len(np.intersect1d(now, then)) / k for now, then in zip(top_now, top, strict=True)])
    difference = np.abs(np.take_along_axis(scores, top, 1) - stored).max()
    return float(overlap), float(difference)
