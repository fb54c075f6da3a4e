"""Extends a prepared data set by newer interactions: its users and items keep their numbers and titles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.candidates import SPLITS, sample_candidates, users_to_leave_out
from delrec_lite.data.columns import ItemColumn, ItemRows
from delrec_lite.data.duplicates import rows_kept
from delrec_lite.data.other_log import refuse_other_ids, same_unit
from delrec_lite.data.prepare import SHORTEST, cuts_by_time, id_order
from delrec_lite.data.readers import Interactions, ItemList
from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.store import Settings, make_dataset
from delrec_lite.data.titles import unique_titles
from delrec_lite.data.types import Bools, CandidateSets, Catalog, Dataset, Ints
from delrec_lite.data.waiting import Waiting
from delrec_lite.errors import DataError

NOTHING_LISTED = ItemList({}, {}, ItemRows())


@dataclass(frozen=True)
class Known:
    """What is there before an update.

    Attributes:
        dataset: The data set.
        times: Of its interactions, user after user.
        candidates: Its candidate sets by split.
        settings: That it was prepared with.
        waiting: Rows of earlier updates that belong to no sequence yet.
    """

    dataset: Dataset
    times: npt.NDArray[Any]
    candidates: Mapping[str, CandidateSets]
    settings: Settings
    waiting: Waiting = Waiting()


@dataclass
class Counts:
    """What an update brings.

    Attributes:
        rows: Of the new log.
        known: Of these, rows that the data set has already, or that wait already.
        left_out: Of these, rows that the data set's rule for duplicates leaves out.
        untitled: Of these, rows left out because their item has no title.
        added: Interactions that the data set gains.
        older: Of these, interactions from before the user's newest one.
        new_users: Users that it gains.
        returning_users: Users that it had and that have new interactions.
        new_items: Items that it gains.
        waiting: Rows that wait until their user has enough of them.
        waiting_users: Their users.
        retitled: Items of the list whose title or side text differs from that of training, which stays.
        idle_items: Unknown items of the list without an interaction, which stay out.
    """

    rows: int = 0
    known: int = 0
    left_out: int = 0
    untitled: int = 0
    added: int = 0
    older: int = 0
    new_users: int = 0
    returning_users: int = 0
    new_items: int = 0
    waiting: int = 0
    waiting_users: int = 0
    retitled: int = 0
    idle_items: int = 0

    def dump(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Extended:
    """A data set after an update.

    Attributes:
        dataset: Users and items of the old one first, with their old numbers.
        times: Of its interactions, user after user.
        candidates: By split; those of questions that have not changed are the old ones.
        waiting: Rows that belong to no sequence yet.
        is_new: Whether an interaction came with this update, bool ``[interactions]``, user after user.
        counts: What it brought.
    """

    dataset: Dataset
    times: npt.NDArray[Any]
    candidates: dict[str, CandidateSets]
    waiting: Waiting
    is_new: Bools
    counts: Counts


def extend(
    known: Known,
    log: Interactions,
    listed: ItemList = NOTHING_LISTED,
    drop_untitled: bool = False,
    where: str = "the new log",
) -> Extended:
    """Add the rows of a log that the data set does not have yet, each at its place by time.

    A row is known if user, item and time are; of several equal rows as many as are known. Users come in with
    ``SHORTEST`` interactions, items with their first one: the k-core chose among those of the first log alone.

    Args:
        known: What is there.
        log: The new rows.
        listed: Titles, side texts and columns of items; needed for those that are not in the catalogue.
        drop_untitled: Leave out rows with items that have no title.
        where: Names the log in errors.

    Raises:
        DataError: An item has no title, or ids or times are written otherwise than those of the data set.
    """
    old, settings, counts = known.dataset, known.settings, Counts(rows=len(log))
    refuse_other_ids(old, known.waiting, log, where)
    rows = _Rows.joined(known, log, same_unit(known.times, log.times, where))
    is_known = rows.is_known()
    counts.known = int(is_known.sum())
    titles = {**known.waiting.titles, **listed.titles}
    untitled = _untitled(rows, len(old.catalog), titles) & (rows.origin == NEW) & ~is_known
    if untitled.any() and not drop_untitled:
        items = np.unique(rows.log.items[untitled])
        raise DataError(
            f"{where}: item {rows.log.item_ids[items[0]]!r} is not in the catalogue and has no title; "
            f"{len(items)} such items in {int(untitled.sum())} rows",
            "give their titles with --items, or leave out such rows with --on-bad-row drop",
        )
    counts.untitled = int(untitled.sum())
    rows = rows.take(~is_known & ~untitled)
    kept = rows_kept(rows.log, settings.duplicates)
    if settings.duplicates != "last":  # the k-core may have left known rows beside each other that a rule would not
        kept |= rows.origin == KNOWN
    counts.left_out = int((~kept & (rows.origin == NEW)).sum())
    rows = rows.take(kept)
    enough = np.bincount(rows.log.users, minlength=len(rows.log.user_ids)) >= SHORTEST
    enough[: len(old.user_ids)] = True
    comes_in = enough[rows.log.users]
    waiting = _waiting(rows.take(~comes_in), titles, {**known.waiting.texts, **listed.texts}, old)
    counts.waiting, counts.waiting_users = len(waiting.users), len(set(waiting.users))
    rows = rows.take(comes_in).renumbered(len(old.user_ids), len(old.catalog))
    _count(counts, rows, old, listed, waiting)
    return _extended(known, rows, titles, listed, waiting, counts)


KNOWN, WAITED, NEW = 0, 1, 2


@dataclass(frozen=True)
class _Rows:
    """Rows of the data set, waiting ones and new ones; known users and items have the first numbers."""

    log: Interactions
    origin: npt.NDArray[np.int8]

    @classmethod
    def joined(cls, known: Known, log: Interactions, times: npt.NDArray[Any]) -> "_Rows":
        old, waiting = known.dataset, known.waiting.log(known.times.dtype)
        sequences = [np.asarray(s) for s in old.sequences]
        own_users = np.repeat(np.arange(len(sequences)), lengths_of(old.sequences))
        user_ids, users = _numbers(old.user_ids, [(part.user_ids, part.users) for part in (waiting, log)])
        item_ids, items = _numbers(old.catalog.ids, [(part.item_ids, part.items) for part in (waiting, log)])
        joined = Interactions(
            user_ids,
            item_ids,
            np.concatenate([own_users, *users]),
            np.concatenate([*sequences, *items]).astype(np.int64),
            np.concatenate([known.times, waiting.times, times]),
        )
        return cls(joined, np.repeat(np.arange(3, dtype=np.int8), [len(own_users), len(waiting), len(log)]))

    def take(self, rows: Bools) -> "_Rows":
        return _Rows(self.log.take(rows), self.origin[rows])

    def is_known(self) -> Bools:
        """Whether a new row is there already: of equal ones as many as there are."""
        log, is_new = self.log, self.origin == NEW
        order = np.lexsort((self.origin, log.times, log.items, log.users))
        columns = (log.users[order], log.items[order], log.times[order])
        starts = np.append(True, np.logical_or.reduce([c[1:] != c[:-1] for c in columns]))
        group = np.cumsum(starts) - 1
        there = np.bincount(group, weights=~is_new[order]).astype(np.int64)
        place = np.arange(len(order)) - np.flatnonzero(starts)[group]  # within the group, new rows last
        known = np.zeros(len(order), dtype=bool)
        known[order] = is_new[order] & (place - there[group] < there[group])
        return known

    def renumbered(self, users: int, items: int) -> "_Rows":
        """Without numbers that no row has, other than those of known ``users`` and ``items``."""
        log = self.log
        (user_ids, of_user), (item_ids, of_item) = (
            _used(log.user_ids, log.users, users),
            _used(log.item_ids, log.items, items),
        )
        return _Rows(Interactions(user_ids, item_ids, of_user, of_item, log.times), self.origin)


def _numbers(known: Sequence[str], parts: Sequence[tuple[Sequence[str], Ints]]) -> tuple[tuple[str, ...], list[Ints]]:
    """Known ids, then the others in their order; and each part's rows as numbers of these."""
    number = {text: n for n, text in enumerate(known)}
    others = list(dict.fromkeys(text for ids, _ in parts for text in ids if text not in number))
    new = [others[n] for n in id_order(others)]
    number |= {text: len(known) + n for n, text in enumerate(new)}
    rows = [np.array([number[text] for text in ids], dtype=np.int64)[index] for ids, index in parts]
    return (*known, *new), rows


def _used(ids: Sequence[str], rows: Ints, known: int) -> tuple[tuple[str, ...], Ints]:
    used = np.zeros(len(ids), dtype=bool)
    used[:known] = True
    used[rows] = True
    return tuple(text for text, is_used in zip(ids, used, strict=True) if is_used), (np.cumsum(used) - 1)[rows]


def _untitled(rows: _Rows, items: int, titles: Mapping[str, str]) -> Bools:
    """Whether a row's item is neither in the catalogue nor among the titles."""
    ids = rows.log.item_ids
    lacks = np.array([n >= items and ids[n] not in titles for n in range(len(ids))], dtype=bool)
    return lacks[rows.log.items]


def _waiting(rows: _Rows, titles: Mapping[str, str], texts: Mapping[str, str], old: Dataset) -> Waiting:
    log, known = rows.log, set(old.catalog.ids)
    items = tuple(log.item_ids[n] for n in log.items)
    new = {item for item in items if item not in known}
    return Waiting(
        tuple(log.user_ids[n] for n in log.users),
        items,
        tuple(log.times.tolist()),
        {item: title for item, title in titles.items() if item in new},
        {item: text for item, text in texts.items() if item in new},
    )


def _count(counts: Counts, rows: _Rows, old: Dataset, listed: ItemList, waiting: Waiting) -> None:
    log, came = rows.log, rows.origin != KNOWN
    counts.added = int(came.sum())
    counts.new_users = len(log.user_ids) - len(old.user_ids)
    counts.new_items = len(log.item_ids) - len(old.catalog)
    counts.returning_users = len(np.unique(log.users[came & (log.users < len(old.user_ids))]))
    newest = np.full(len(log.user_ids), -np.inf)
    np.maximum.at(newest, log.users[~came], log.times[~came].astype(np.float64))
    counts.older = int((log.times[came].astype(np.float64) < newest[log.users[came]]).sum())
    catalog, ids = old.catalog, {*log.item_ids, *waiting.items}
    trained = dict(zip(catalog.ids, zip(catalog.titles, catalog.texts or catalog.titles, strict=True), strict=True))
    for item, title in listed.titles.items():
        if item in trained:
            text = listed.texts.get(item, "") if catalog.texts else trained[item][1]
            counts.retitled += not _is_title(title, trained[item][0]) or text != trained[item][1]
    counts.idle_items = sum(item not in ids for item in listed.titles)


def _is_title(title: str, trained: str) -> bool:
    """Whether a title is the trained one, which may have a number that tells it from an equal one."""
    return title == trained or (trained.startswith(title) and "[" in trained[len(title) :])


def _extended(
    known: Known, rows: _Rows, titles: Mapping[str, str], listed: ItemList, waiting: Waiting, counts: Counts
) -> Extended:
    old, settings, log = known.dataset, known.settings, rows.log
    order = np.lexsort((np.arange(len(log)), log.times, log.users))
    lengths = np.bincount(log.users, minlength=len(log.user_ids))
    ends = np.cumsum(lengths)[:-1]
    sequences = np.split(log.items[order], ends)
    times = log.times[order]
    cuts = None if settings.split == "leave-one-out" else cuts_by_time(np.split(times, ends))
    catalog = _longer(old, log.item_ids[len(old.catalog) :], titles, known.waiting, listed)
    draft = Dataset(old.name, catalog, log.user_ids, tuple(sequences), "", cuts, old.repeats)
    unasked = users_to_leave_out(draft, settings.m)
    dataset = make_dataset(old.name, catalog, log.user_ids, sequences, cuts, old.repeats, unasked, old.asked)
    if empty := [part for part in SPLITS if not len(dataset.questions(part))]:
        raise DataError(
            f"with the new rows {old.name} has no question in its {empty[0]} part: its users had all next items before",
            "prepare all rows again, with --repeats or --duplicates",
        )
    candidates = {split: _candidates(known, dataset, split) for split in SPLITS}
    return Extended(dataset, times, candidates, waiting, rows.origin[order] != KNOWN, counts)


def _longer(old: Dataset, new: Sequence[str], titles: Mapping[str, str], waiting: Waiting, listed: ItemList) -> Catalog:
    """The old catalogue with new items behind it; a title that it has gets a number."""
    catalog = old.catalog
    weights = [*(old.popularity() + 1).tolist(), *[0] * len(new)]
    unique = unique_titles([*catalog.titles, *(titles[item] for item in new)], weights)
    texts = {**waiting.texts, **listed.texts}
    more_texts = tuple(texts.get(item, "") for item in new)
    given = {column.name: column for column in listed.rows.of([*catalog.ids, *new])}
    named = set(listed.rows.ids)
    is_named = [item in named for item in (*catalog.ids, *new)]
    columns = tuple(_longer_column(column, given.get(column.name), is_named) for column in catalog.columns)
    return Catalog((*catalog.ids, *new), unique, (*catalog.texts, *more_texts) if catalog.texts else (), columns)


def _longer_column(column: ItemColumn, given: ItemColumn | None, is_named: Sequence[bool]) -> ItemColumn:
    """A column of all items: of those that the list names with the list's values."""
    if given is not None and given.kind != column.kind:
        raise DataError(
            f"the item list's column {column.name!r} is {given.kind}, that of the data set is {column.kind}",
            f"give values that are {column.kind}",
        )
    values = [*column.values, *(None,) * (len(is_named) - len(column.values))]
    if given is not None:
        values = [
            after if named else before for before, after, named in zip(values, given.values, is_named, strict=True)
        ]
    return replace(column, values=tuple(values))


def _candidates(known: Known, dataset: Dataset, split: str) -> CandidateSets:
    """The sets of a split; a question of a user without new interactions keeps its old set."""
    sets, old = sample_candidates(dataset, split, known.settings.m, known.settings.seed), known.dataset
    rows = {tuple(question): row for row, question in enumerate(old.questions(split).tolist())}
    items = sets.items.copy()
    for row, (user, position) in enumerate(dataset.questions(split).tolist()):
        same = rows.get((user, position))
        if same is not None and np.array_equal(dataset.sequences[user], old.sequences[user]):
            items[row] = known.candidates[split].items[same]
    return CandidateSets(split, items, sets.seed)
