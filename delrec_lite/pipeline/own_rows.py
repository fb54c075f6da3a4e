"""`eval --row NAME=FILE`: a model of the user's own, known by its ranked lists, as a row of the table.

The file has a row for each item: ``user_id``, ``item_id``, and ``rank`` (best first) or ``score`` (highest best), or
both. Lists of the catalogue's items give the rank in the whole catalogue; where a file has every candidate of every
user, it gives the rank among the candidates, too. The lists are those of the test users after all items but the last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delrec_lite.console import Console
from delrec_lite.data.badrows import SHOWN, Malformed
from delrec_lite.data.lists import ITEM, RANK, SCORE, USER, numbers_in
from delrec_lite.data.tables import open_table
from delrec_lite.data.types import CandidateSets, Dataset, Floats, Ints
from delrec_lite.errors import DataError, UsageError, did_you_mean
from delrec_lite.evaluation.metrics import LIST_LENGTH, Ranks

POLICIES = ("refuse", "count")
_FORM = "a row for each item: user_id, item_id, and rank or score"


@dataclass(frozen=True)
class OwnList:
    """What a file says of one user: items and values, higher is better."""

    items: Ints
    values: Floats


def parse_rows(options: Sequence[str]) -> dict[str, Path]:
    """The files of ``--row NAME=FILE``, by name.

    Raises:
        UsageError: No name or no file, or a name twice.
    """
    rows: dict[str, Path] = {}
    for option in options:
        name, equals, path = (part.strip() for part in option.partition("="))
        if not equals or not name or not path:
            raise UsageError(f"--row {option!r} is not NAME=FILE", "such as --row EASE=ease.parquet")
        if "|" in name or not name.isprintable() or len(name) > 80:
            raise UsageError(f"--row: {name[:80]!r} cannot name a row of a table", "use letters, digits and spaces")
        if name in rows:
            raise UsageError(f"--row {name} is given twice", "give each row its own name")
        rows[name] = Path(path)
    return rows


def own_ranks(
    path: Path, dataset: Dataset, candidates: CandidateSets, console: Console, missing: str = "refuse"
) -> Ranks:
    """Ranks of the test users' targets by a file's lists.

    An item that a list lacks ranks below all of the list, in the middle of all that it lacks.

    Args:
        path: CSV, TSV, JSON Lines or Parquet, see this module.
        dataset: Whose test users are ranked.
        candidates: Of the test users.
        console: Says what was counted.
        missing: ``refuse`` a file without a list for every test user, or ``count`` the last rank for those.

    Returns:
        Without ``full`` and lists if the file has candidates alone, without ``sampled`` if it lacks some candidates.

    Raises:
        UsageError: A data set with several questions a user, or an unknown policy.
        DataError: The file cannot be read, does not fit the data set, or lacks users.
    """
    if missing not in POLICIES:
        raise UsageError(f"--row-missing has no value {missing!r}", did_you_mean(missing, POLICIES))
    users = dataset.questions("test")[:, 0]
    if len(np.unique(users)) < len(users):
        raise UsageError(
            f"{path} has one list a user, and {dataset.name}, split by time, asks several questions of a user",
            "--row needs a data set that was prepared with --split leave-one-out",
        )
    lists = _read(path, dataset, console)
    absent = [user for user in users.tolist() if user not in lists]
    if absent:
        names = ", ".join(repr(dataset.user_ids[user]) for user in absent[:3])
        counted = f"{path} has no list for {len(absent)} of {len(users)} test users, such as {names}"
        if missing == "refuse" or len(absent) == len(users):
            raise DataError(counted, "write a list for every test user, or rank them last: --row-missing count")
        console.say(f"  {counted}: they get the last rank")
    return _ranks(path, lists, users, dataset, candidates, console)


def _ranks(
    path: Path,
    lists: Mapping[int, OwnList],
    users: Ints,
    dataset: Dataset,
    candidates: CandidateSets,
    console: Console,
) -> Ranks:
    split, items = dataset.test(), len(dataset.catalog)
    full, sampled = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    first = np.full((len(users), LIST_LENGTH), -1, np.int32)
    whole, covered, among, short = True, True, True, 0
    for n, user in enumerate(users.tolist()):
        target, own, chosen = int(split.targets[n]), lists.get(user), candidates.items[n]
        left_out = np.setdiff1d([] if split.repeats else split.histories[n], [target])
        pool = items - len(left_out)
        if own is None:
            full[n], sampled[n] = pool, len(chosen)
            continue
        ranked = ~np.isin(own.items, left_out)
        full[n] = _rank(own.items[ranked], own.values[ranked], target, pool)
        shown = own.items[ranked][:LIST_LENGTH]
        first[n, : len(shown)] = shown
        short += len(shown) < min(LIST_LENGTH, pool)
        whole &= int(ranked.sum()) == pool
        inside = np.isin(own.items, chosen)
        among &= bool(inside.all())
        covered &= int(inside.sum()) == len(chosen)
        sampled[n] = _rank(own.items[inside], own.values[inside], target, len(chosen))
    if among and not covered:
        raise DataError(
            f"{path} has candidates alone, and not all of them for every user",
            f"score all {candidates.items.shape[1]} candidates of each test user, or write lists of the catalogue",
        )
    if short and not among:
        console.say(f"  {path}: {short} lists have fewer than {LIST_LENGTH} items that are not in the user's history")
    nothing = np.empty(0, np.int64)
    if among:
        return Ranks(sampled, nothing, 0.0, same_scores=whole)
    return Ranks(sampled if covered else nothing, full, 0.0, same_scores=whole, lists=first)


def _rank(items: Ints, values: Floats, target: int, pool: int) -> int:
    """1 + items above the target + half of those with the same value, as ``protocol.ranks_of``."""
    is_target = items == target
    if is_target.any():
        value = values[is_target][0]
        above, same = int((values > value).sum()), int((values == value).sum()) - 1
    else:
        above, same = len(items), pool - len(items) - 1
    return 1 + above + (same + 1) // 2


def _read(path: Path, dataset: Dataset, console: Console) -> dict[int, OwnList]:
    """The list of each user of the data set that has one."""
    opened = open_table(path)
    numeric = [name for name in (RANK, SCORE) if name in opened.names]
    if not numeric:
        raise DataError(f"{path} has neither a column {RANK!r} nor {SCORE!r}", _FORM)
    table = opened.read((USER, ITEM, *numeric))
    columns = {name: numbers_in(table.texts(name)) for name in numeric}
    malformed = ~np.all([np.isfinite(values) for values in columns.values()], axis=0)
    examples = list(table.malformed)
    reason = f"{' or '.join(numeric)} is not a number"
    examples += [(table.row(int(n)), reason) for n in np.flatnonzero(malformed)[:SHOWN]]
    if examples:
        count = len(table.malformed) + int(malformed.sum())
        raise DataError(str(Malformed(path, count, tuple(sorted(examples)[:SHOWN]))), "correct them")
    user_index = {name: n for n, name in enumerate(dataset.user_ids)}
    item_index = {name: n for n, name in enumerate(dataset.catalog.ids)}
    users = np.array([user_index.get(name, -1) for name in table.ids(USER)], np.int64)
    items = np.array([item_index.get(name, -1) for name in table.ids(ITEM)], np.int64)
    known = np.flatnonzero((users >= 0) & (items >= 0))
    if not len(known):
        raise DataError(
            f"{path} names no user and item of {dataset.name}", "check that the file uses the ids of your log"
        )
    if len(known) < len(users):
        console.say(f"  {path}: {len(users) - len(known)} rows name no user and item of the data set and are left out")
    values = columns[SCORE] if SCORE in columns else -columns[RANK]
    order = known[np.lexsort((-values[known], users[known]))]
    listed, starts = np.unique(users[order], return_index=True)
    lists = {}
    for user, places in zip(listed.tolist(), np.split(order, starts[1:]), strict=True):
        if len(np.unique(items[places])) < len(places):
            raise DataError(f"{path} lists an item twice for user {dataset.user_ids[user]!r}", "keep its best rank")
        if len(columns) == 2 and (np.diff(columns[RANK][places]) < 0).any():
            raise DataError(
                f"{path}: rank and score of user {dataset.user_ids[user]!r} give different orders",
                "leave out the column that is wrong; a higher score is better, and rank 1 is best",
            )
        lists[user] = OwnList(items[places], values[places])
    return lists
