"""What a log's owner should know about its times, duplicates and repeats before any model is trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.sequences import had_before, lengths_of
from delrec_lite.data.types import SPLITS, Dataset, Ints

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


@dataclass
class Tally:
    """What the checks count in the sequences, block of users after block of users.

    Attributes:
        targets: Validation and test items that have a history.
        tests: Test items among them.
        repeated: Targets that the user had before.
        tied: Test items with the time of the user's item before.
        same_again: Test items that are the user's item before.
        interactions: Of all users.
        same_time: Whether all of them have one time.
    """

    targets: int = 0
    tests: int = 0
    repeated: int = 0
    tied: int = 0
    same_again: int = 0
    interactions: int = 0
    same_time: bool = True
    _time: Any = None

    def add(self, block: Dataset, items: Ints, times: npt.NDArray[Any]) -> None:
        """Count a block of users.

        Args:
            block: A data set of these users alone.
            items: Its sequences, one after another.
            times: Of the items.
        """
        for split in SPLITS:
            targets = block.targets(split)
            self.targets += len(targets)
            self.repeated += int(had_before(block.sequences, targets).sum())
        lengths = lengths_of(block.sequences)
        places = (np.cumsum(lengths) - lengths)[targets[:, 0]] + targets[:, 1]
        self.tests += len(places)
        self.tied += int((times[places] == times[places - 1]).sum())
        self.same_again += int((items[places] == items[places - 1]).sum())
        self.interactions += len(items)
        self._time = times[0] if self._time is None and len(times) else self._time
        self.same_time = self.same_time and bool((times == self._time).all())

    def check_times(self, checks: Checks) -> None:
        """Write the shares to ``checks``, and say what the order of equal times means."""
        if not self.tests:
            return
        checks.repeated = self.repeated / self.targets
        checks.tied, checks.same_again = self.tied / self.tests, self.same_again / self.tests
        if self.interactions > 1 and self.same_time:
            checks.notes.append("times: all are equal, so the order of a user's items is that of the file")
        elif checks.tied:
            checks.notes.append(
                f"times: {_share(checks.tied)} of the test items have the time of the item before; which of them is "
                "the last one is the order of the file, not time"
            )


def check_repeats(checks: Checks, dataset: Dataset, rule: str, m: int) -> None:
    """Count duplicates, repeats and users without questions, and say what is done with them.

    Args:
        checks: To add to; its ``duplicates``, ``duplicates_left_out``, ``same_again`` and ``repeated`` are known.
        dataset: The data.
        rule: How duplicates were handled.
        m: Size of a candidate set.
    """
    tests = len(dataset.targets("test"))
    if rule != "keep":
        checks.notes.append(f"duplicates: {checks.duplicates_left_out} of {checks.rows} rows left out ({rule})")
    elif checks.duplicates or checks.same_again:
        same = round(checks.same_again * tests)
        checks.notes.append(
            f"duplicates: {checks.duplicates} of {checks.rows} rows repeat an earlier row, and {same} of {tests} "
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
        "rows": dataset.interactions,
    }
    lost = {name: before[name] - after[name] for name in after}
    if not lost["rows"]:
        return {}, ""
    what = ", ".join(f"{count} {name}" for name, count in lost.items() if count)
    needed = f"users with fewer than {max(k, shortest)} interactions, items with fewer than {k}"
    return lost, f"left out by the {k}-core: {what} ({needed})"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.001 else "under 0.1%"
