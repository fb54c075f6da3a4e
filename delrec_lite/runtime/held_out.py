"""Requests of held-out users to ask a bundle: a prepared data set's test questions, or those stored in the bundle."""

from dataclasses import dataclass
from pathlib import Path

from delrec_lite.data.types import CandidateSets, Split
from delrec_lite.errors import DataError
from delrec_lite.evaluation.setting import Setting
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.golden import read_golden

HISTORY = 20
MOST_REQUESTS = 1000


@dataclass(frozen=True)
class HeldOut:
    """Held-out requests.

    Attributes:
        split: Histories of at most ``HISTORY`` items, the newest, and targets.
        candidates: Of the same requests; each holds its target.
        source: Where they come from.
    """

    split: Split
    candidates: CandidateSets
    source: str


def held_out(bundle: Bundle, dataset: Path | None = None) -> HeldOut:
    """The data set's test questions where one is given, else the requests in the bundle.

    Args:
        bundle: Opened.
        dataset: A folder that ``delrec-lite prepare`` wrote; at most ``MOST_REQUESTS`` of its questions are taken.

    Raises:
        UsageError: The bundle holds no requests and no data set is given.
        BundleError: The bundle's requests do not fit its catalogue.
        DataError: The data set has another catalogue, or nothing in its test part.
    """
    if dataset is not None:
        from delrec_lite.data.store import load_candidates, load_dataset

        data, candidates = load_dataset(dataset), load_candidates(dataset)["test"]
        if list(data.catalog.ids) != list(bundle.items.ids[: bundle.trained]):
            raise DataError(
                f"{dataset} and {bundle.folder} have different catalogues", "give the bundle's own data set"
            )
        split = data.test()
        if not len(split):
            raise DataError(f"{dataset} has no test part to take requests from", "prepare it with another --split")
        chosen = range(0, len(split), -(-len(split) // MOST_REQUESTS))
        split, candidates = split.take(chosen), candidates.take(chosen)
        source = f"{data.name}, {Setting.of(data, candidates).questions()}"
    else:
        stored = read_golden(bundle.folder, bundle.trained)
        split = Split("test", stored.histories, stored.targets, bundle.repeats)
        candidates = CandidateSets("test", stored.candidates, 0)
        source = f"{bundle.name}, held-out requests in the bundle"
    newest = tuple(history[-min(HISTORY, bundle.prompt.max_history) :] for history in split.histories)
    return HeldOut(Split("test", newest, split.targets, split.repeats), candidates, source)
