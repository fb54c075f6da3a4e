"""The requests stored in a bundle: held-out users, their next items, and the bundle's answers at export."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.runtime.manifest import REMEDY, read_json

if TYPE_CHECKING:
    from delrec_lite.runtime.recommender import Recommender

FILE = "golden.json"
TOP = 10


@dataclass(frozen=True)
class Golden:
    """Stored requests.

    Attributes:
        histories: Item indices, oldest first.
        targets: The next item of each user, int64 ``[users]``.
        candidates: int64 ``[users, m]``.
        top: The first ten items at export, int64 ``[users, 10]``; None in a bundle of an older version.
        scores: Their scores, float32, same shape.
        other_models: Top and scores of the bundle's other models, by the name of their file.
    """

    histories: tuple[Ints, ...]
    targets: Ints
    candidates: Ints
    top: Ints | None = None
    scores: Floats | None = None
    other_models: Mapping[str, tuple[Ints, Floats]] = field(default_factory=dict)


def answers(recommender: "Recommender", golden: Golden) -> Floats:
    """The bundle's scores of the requests now: float32 ``[users, items]``.

    A bundle that ranks candidates alone gives minus infinity for every other item.
    """
    if recommender.bundle.prompt.format.ranks_catalogue:
        return recommender.scores(golden.histories)[:, : recommender.bundle.trained]
    scores = np.full((len(golden.histories), recommender.bundle.trained), -np.inf, np.float32)
    np.put_along_axis(scores, golden.candidates, recommender.score_candidates(golden.histories, golden.candidates), 1)
    return scores


def write_golden(folder: Path, golden: Golden, scores: Floats, more_scores: Mapping[str, Floats] | None = None) -> None:
    """Write the requests with the answers that the scores give.

    Args:
        folder: Of the bundle.
        golden: The requests.
        scores: Of the default model, float32 ``[users, items]``, as ``answers`` gives them.
        more_scores: Of the bundle's other models, by the name of their file.
    """
    content: dict[str, Any] = {
        "histories": [history.tolist() for history in golden.histories],
        "targets": golden.targets.tolist(),
        "candidates": golden.candidates.tolist(),
        **_top_and_scores(scores),
        "others": {file: _top_and_scores(other) for file, other in (more_scores or {}).items()},
    }
    (folder / FILE).write_text(json.dumps(content), encoding="utf-8")


def _top_and_scores(scores: Floats) -> dict[str, Any]:
    k = min(TOP, int(np.isfinite(scores).sum(1).min()))
    top = np.argsort(-scores, axis=1)[:, :k]
    return {"top": top.tolist(), "scores": np.round(np.take_along_axis(scores, top, 1), 4).tolist()}


def read_golden(folder: Path, items: int) -> Golden:
    """The stored requests, checked against a catalogue of ``items``.

    Raises:
        UsageError: There are none.
        BundleError: They cannot be read or do not fit.
    """
    path = folder / FILE
    if not path.exists():
        raise UsageError(f"{folder} holds no stored requests", "give test users with --dataset DIR")
    try:
        content = read_json(path)
        top, scores = _read_answers(content) if "top" in content else (None, None)
        golden = Golden(
            tuple(np.array(h, dtype=np.int64) for h in content["histories"]),
            np.array(content["targets"], dtype=np.int64),
            np.array(content["candidates"], dtype=np.int64),
            top,
            scores,
            {str(file): _read_answers(other) for file, other in content.get("others", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
    if not _fits(golden, items):
        raise BundleError(f"{path} does not fit the bundle's catalogue", REMEDY)
    return golden


def _read_answers(stored: Mapping[str, Any]) -> tuple[Ints, Floats]:
    return np.array(stored["top"], dtype=np.int64), np.array(stored["scores"], dtype=np.float32)


def _fits(golden: Golden, items: int) -> bool:
    users = len(golden.histories)
    answers = [*golden.other_models.values()]
    if golden.top is not None and golden.scores is not None:
        answers.append((golden.top, golden.scores))
    if any(top.shape != scores.shape for top, scores in answers):
        return False
    matrices: Sequence[Any] = [golden.candidates, *(top for top, _ in answers)]
    if not users or golden.targets.shape != (users,):
        return False
    if any(m.ndim != 2 or len(m) != users or m.shape[1] < 1 for m in matrices):
        return False
    if any(h.ndim != 1 or not len(h) for h in golden.histories):
        return False
    return all(a.min() >= 0 and a.max() < items for a in (*golden.histories, golden.targets, *matrices))
