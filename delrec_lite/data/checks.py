"""What a log's owner should know about its times, duplicates and repeats before any model is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import SPLITS, Dataset

# Share of the next items that a user had before, from which on leaving them out would change the task: repeats count
# unless the user says otherwise.
USUAL = 0.05


@dataclass
class Checks:
    """Counts of a data set, and what is odd about its log.

    Attributes:
        rows: Rows of the log.
        duplicates: Rows with user, item and time of an earlier row.
        duplicates_left_out: Rows that ``--duplicates`` left out.
        few_left_out: Users, items and rows that the k-core left out.
        tied: Share of the test items with the time of the user's item before.
        same_again: Share of the test items that are the user's item before.
        repeated: Share of the validation and test items that the user had before.
        unasked_users: Users without questions, because they have too few unseen items.
        repeats_unasked: Validation and test items that are no question, because the user had them before.
        notes: Sentences about all that; first those of the readers.
    """

    rows: int = 0
    duplicates: int = 0
    duplicates_left_out: int = 0
    few_left_out: dict[str, int] = field(default_factory=dict)
    tied: float = 0.0
    same_again: float = 0.0
    repeated: float = 0.0
    unasked_users: int = 0
    repeats_unasked: int = 0
    notes: list[str] = field(default_factory=list)

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def repeated_share(dataset: Dataset) -> float:
    """Share of the validation and test items that the user had before."""
    repeated = [dataset.repeated[dataset.places(dataset.targets(split))] for split in SPLITS]
    together = np.concatenate(repeated)
    return float(together.mean()) if len(together) else 0.0


def check_times(checks: Checks, dataset: Dataset, times: Sequence[npt.NDArray[Any]]) -> None:
    """Count test items with the time of the item before, and say what their order means.

    Args:
        checks: To add to.
        dataset: The data.
        times: Of each user's items, in the order of ``dataset.sequences``.
    """
    together = np.concatenate(times)
    places = dataset.places(dataset.targets("test"))
    if not len(places):
        return
    checks.tied = float((together[places] == together[places - 1]).mean())
    if len(together) > 1 and (together == together[0]).all():
        checks.notes.append("times: all are equal, so the order of a user's items is that of the file")
    elif checks.tied:
        checks.notes.append(
            f"times: {_share(checks.tied)} of the test items have the time of the item before; which of them is the "
            "last one is the order of the file, not time"
        )


def check_repeats(checks: Checks, dataset: Dataset, rule: str, m: int) -> None:
    """Count duplicates, repeats and users without questions, and say what is done with them.

    Args:
        checks: To add to; its ``duplicates``, ``duplicates_left_out`` and ``repeated`` are known.
        dataset: The data.
        rule: How duplicates were handled.
        m: Size of a candidate set.
    """
    items = np.concatenate(dataset.sequences)
    targets = dataset.targets("test")
    places = dataset.places(targets)
    if len(places):
        checks.same_again = float((items[places] == items[places - 1]).mean())
    if rule != "keep":
        checks.notes.append(f"duplicates: {checks.duplicates_left_out} of {checks.rows} rows left out ({rule})")
    elif checks.duplicates or checks.same_again:
        same = round(checks.same_again * len(places))
        checks.notes.append(
            f"duplicates: {checks.duplicates} of {checks.rows} rows repeat an earlier row, and {same} of {len(places)} "
            "test items are the item before again; --duplicates first, last or consecutive leaves such rows out"
        )
    if checks.repeated and dataset.repeats:
        checks.notes.append(
            f"repeats: {_share(checks.repeated)} of the next items are ones that the user had before; they count, and "
            "rankings hold the items of a history (--no-repeats: neither)"
        )
    elif checks.repeated:
        whole = sum(len(dataset.targets(split)) for split in SPLITS)
        checks.repeats_unasked = round(checks.repeated * whole)
        checks.notes.append(
            f"repeats: {_share(checks.repeated)} of the next items are ones that the user had before; they are no "
            "questions, and rankings leave out the items of a history (--repeats: they count)"
        )
    checks.unasked_users = len(dataset.unasked)
    if dataset.unasked:
        checks.notes.append(
            f"questions: users with fewer than {m - 1} unseen items for negatives ask none: {len(dataset.unasked)}, "
            f"the first is {dataset.user_ids[dataset.unasked[0]]!r}"
        )


def few_left_out(before: Mapping[str, int], dataset: Dataset, k: int, shortest: int) -> tuple[dict[str, int], str]:
    """What the k-core left out: counts by name, and a sentence; empty if nothing."""
    after = {
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "rows": sum(len(sequence) for sequence in dataset.sequences),
    }
    lost = {name: before[name] - after[name] for name in after}
    if not lost["rows"]:
        return {}, ""
    what = ", ".join(f"{count} {name}" for name, count in lost.items() if count)
    needed = f"users with fewer than {max(k, shortest)} interactions, items with fewer than {k}"
    return lost, f"left out by the {k}-core: {what} ({needed})"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.001 else "under 0.1%"
