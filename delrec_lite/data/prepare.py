"""`prepare`: turns a log and item titles into sequences, splits and candidate sets, once per data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.console import QUIET, Console
from delrec_lite.data.candidates import SPLITS, sample_candidates, sampled_users, users_to_leave_out
from delrec_lite.data.checks import USUAL, Checks, Tally, check_repeats, few_left_out
from delrec_lite.data.columns import NO_COLUMNS, ItemRows
from delrec_lite.data.duplicates import Duplicates, exact_duplicates, without_duplicates
from delrec_lite.data.readers import Interactions
from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.store import Settings, SplitRule, make_dataset, save_dataset
from delrec_lite.data.titles import unique_titles
from delrec_lite.data.typed_columns import parse_specs
from delrec_lite.data.types import CandidateSets, Catalog, Dataset
from delrec_lite.errors import DataError, UsageError
from delrec_lite.hub.registry import Asset, find_dataset

# Leave-one-out needs a test item, a validation item and at least one item before them.
SHORTEST = 3


def prepare(
    name: str,
    source: Path,
    out: Path,
    k_core: int = 5,
    m: int = 15,
    seed: int = 2024,
    console: Console = QUIET,
    split: SplitRule = "leave-one-out",
    text_columns: Sequence[str] = (),
    duplicates: Duplicates = "keep",
    repeats: bool | None = None,
    checks: Checks | None = None,
    item_columns: Sequence[str] = (),
    test_users: int | None = None,
    domain: str | None = None,
    verb: str | None = None,
) -> Dataset:
    """Prepare a pulled data set.

    Args:
        name: Its name in the registry; its record names the function that reads it.
        source: Folder with the files of one of its mirrors.
        out: Folder to write; an existing data set in it is replaced.
        k_core: Minimum interactions per user and per item, applied until both hold.
        m: Candidates per user.
        seed: Random seed of the candidate sets.
        console: Shows the counts.
        split: See ``Settings``.
        text_columns: Side text to keep; ``genres`` of ml-100k.
        duplicates: See ``Settings``.
        repeats: See ``Settings``.
        checks: Gets what was found in the log.
        item_columns: Columns to keep for filters; ``genres`` and ``year`` of ml-100k.
        test_users: See ``Settings``.
        domain: See ``Settings``.
        verb: See ``Settings``.

    Raises:
        DataError: Malformed rows, no interactions after the k-core, or no questions.
        StorageError: ``out`` cannot be written.
        UsageError: No data set of this name, or it has no such side text or column.
    """
    asset = find_dataset(name)
    interactions, titles = resolved(asset.reader)(source)
    texts = side_text(asset, source, text_columns) if text_columns else {}
    columns = _item_columns(asset, source, item_columns) if item_columns else NO_COLUMNS
    kept = tuple(item_columns)
    texted = tuple(text_columns)
    settings = Settings(k_core, m, seed, split, texted, duplicates, repeats, kept, test_users, domain, verb)
    return prepare_tables(name, interactions, titles, out, settings, console, texts, checks, columns)


def side_text(asset: Asset, source: Path, columns: Sequence[str]) -> Mapping[str, str]:
    """Side text of each item id of a pulled data set.

    Raises:
        UsageError: It has no such side text.
    """
    if not asset.text_reader:
        raise UsageError(f"{asset.name} has no side text", "leave out --text-columns")
    texts: Mapping[str, str] = resolved(asset.text_reader)(source, columns)
    return texts


def _item_columns(asset: Asset, source: Path, columns: Sequence[str]) -> ItemRows:
    if not asset.column_reader:
        raise UsageError(f"{asset.name} has no item columns", "leave out --item-columns")
    rows: ItemRows = resolved(asset.column_reader)(source, parse_specs(columns))
    return rows


def resolved(reader: Any) -> Any:
    """The function that reads a data set, from its name in the registry."""
    return resolve_name(reader) if isinstance(reader, str) else reader


def prepare_tables(
    name: str,
    interactions: Interactions,
    titles: Mapping[str, str],
    out: Path,
    settings: Settings,
    console: Console = QUIET,
    texts: Mapping[str, str] | None = None,
    checks: Checks | None = None,
    columns: ItemRows = NO_COLUMNS,
    source: Mapping[str, Any] | None = None,
) -> Dataset:
    """Prepare any log; ``titles`` and ``texts`` give each item id's title and side text. Otherwise as ``prepare``.

    ``source`` says how the files were read, see ``kept.source_of``.
    """
    checks = Checks() if checks is None else checks
    dataset, candidates, times = prepared_tables(name, interactions, titles, settings, texts, checks, columns)
    save_dataset(dataset, candidates, settings, out, checks.dump(), times, source)
    say_result(dataset, settings, checks, console)
    return dataset


def prepared_tables(
    name: str,
    interactions: Interactions,
    titles: Mapping[str, str],
    settings: Settings,
    texts: Mapping[str, str] | None,
    checks: Checks,
    columns: ItemRows = NO_COLUMNS,
) -> tuple[Dataset, dict[str, CandidateSets], npt.NDArray[Any]]:
    """``prepare_tables`` in memory alone: data set with questions, candidate sets by split, and times."""
    check_settings(settings)
    checks.rows, checks.duplicates = len(interactions), exact_duplicates(interactions)
    interactions = without_duplicates(interactions, settings.duplicates)
    checks.duplicates_left_out = checks.rows - len(interactions)
    built, times = build_timed(name, interactions, titles, settings.k_core, settings.split, texts, checks, columns)
    dataset, candidates = asked(built, settings, checks)
    return dataset, candidates, times


def check_settings(settings: Settings) -> None:
    """Refuse values that no data set can have.

    Raises:
        UsageError: There is one.
    """
    if settings.k_core < 1 or settings.m < 2:
        raise UsageError(
            f"k-core is {settings.k_core} and candidates is {settings.m}",
            "k-core must be at least 1, candidates at least 2",
        )
    if settings.test_users is not None and settings.test_users < 1:
        raise UsageError(f"test-users is {settings.test_users}", "at least 1, or leave it out for all users")


def asked(dataset: Dataset, settings: Settings, checks: Checks) -> tuple[Dataset, dict[str, CandidateSets]]:
    """The data set with its questions, and their candidate sets; what was found goes to ``checks``."""
    repeats = checks.repeated >= USUAL if settings.repeats is None else settings.repeats
    dataset = with_questions(dataset, repeats, settings.m, settings.test_users, settings.seed)
    check_repeats(checks, dataset, settings.duplicates, settings.m)
    return dataset, {split: sample_candidates(dataset, split, settings.m, settings.seed) for split in SPLITS}


def say_result(dataset: Dataset, settings: Settings, checks: Checks, console: Console) -> None:
    """Show the counts and the notes."""
    console.say(
        f"  {dataset.name}: {len(dataset.user_ids)} users, {len(dataset.catalog)} items, {dataset.interactions} of "
        f"{checks.rows} interactions after the {settings.k_core}-core"
    )
    for note in checks.notes:
        console.say(f"  {note}")


def build_dataset(
    name: str,
    interactions: Interactions,
    titles: Mapping[str, str],
    k_core: int,
    split: SplitRule = "leave-one-out",
    texts: Mapping[str, str] | None = None,
    checks: Checks | None = None,
    columns: ItemRows = NO_COLUMNS,
) -> Dataset:
    """The data set of ``build_timed``."""
    return build_timed(name, interactions, titles, k_core, split, texts, checks, columns)[0]


def build_timed(
    name: str,
    interactions: Interactions,
    titles: Mapping[str, str],
    k_core: int,
    split: SplitRule = "leave-one-out",
    texts: Mapping[str, str] | None = None,
    checks: Checks | None = None,
    columns: ItemRows = NO_COLUMNS,
) -> tuple[Dataset, npt.NDArray[Any]]:
    """Filter, order by time (ties by the order of the file) and number users and items from 0.

    Users and items are numbered in the order of their ids; numeric ids are ordered by value.

    Returns:
        The data set, and the times of its interactions, user after user.

    Raises:
        DataError: No interactions after the k-core, an item has no title, or a part of the split is empty.
    """
    checks = Checks() if checks is None else checks
    user_ids, users = _number(interactions.user_ids, interactions.users)
    item_ids, items = _number(interactions.item_ids, interactions.items)
    in_core = k_core_rows(users, items, k_core)
    if not in_core.any():
        raise DataError(f"{name} has no interactions after the {k_core}-core", "lower --k-core")
    rows = np.flatnonzero(in_core)
    rows = rows[np.lexsort((rows, interactions.times[rows], users[rows]))]
    core_users, lengths = np.unique(users[rows], return_counts=True)
    core_items, dense = np.unique(items[rows], return_inverse=True)
    sequences = np.split(dense.astype(np.int64), np.cumsum(lengths)[:-1])
    times = np.split(interactions.times[rows], np.cumsum(lengths)[:-1])
    cuts = None if split == "leave-one-out" else cuts_by_time(times)
    ids = tuple(item_ids[i] for i in core_items)
    untitled = Dataset(name, Catalog(ids, ids), (), tuple(sequences), "", cuts)
    catalog = titled_catalog(untitled, titles, texts, columns)
    dataset = make_dataset(name, catalog, [user_ids[u] for u in core_users], sequences, cuts)
    before = {"users": len(np.unique(users)), "items": len(np.unique(items)), "rows": len(users)}
    tally = Tally()
    tally.add(dataset, np.concatenate(sequences), interactions.times[rows])
    check_core(checks, before, dataset, k_core, tally)
    return dataset, interactions.times[rows]


def titled_catalog(
    dataset: Dataset, titles: Mapping[str, str], texts: Mapping[str, str] | None, columns: ItemRows = NO_COLUMNS
) -> Catalog:
    """The catalogue of a data set whose items have no titles yet: unique titles, side texts and columns.

    Raises:
        DataError: An item has no title, or a part of the split is empty.
    """
    ids = dataset.catalog.ids
    untitled = next((i for i in ids if i not in titles), None)
    if untitled is not None:
        raise DataError(
            f"item {untitled!r} of {dataset.name} has interactions but no title",
            "add it to the item list, or leave out interactions with such items with --on-bad-row drop",
        )
    if dataset.cuts is not None:
        _refuse_empty_parts(dataset)
    # Popularity without validation and test items, so that the number in a title does not depend on them.
    unique = unique_titles([titles[i] for i in ids], dataset.popularity().tolist())
    return Catalog(ids, unique, tuple(texts.get(i, "") for i in ids) if texts else (), columns.of(ids))


def check_core(checks: Checks, before: Mapping[str, int], dataset: Dataset, k_core: int, tally: Tally) -> None:
    """Note what the k-core left out, and what the times say; ``before`` counts users, items and rows."""
    checks.few_left_out, note = few_left_out(before, dataset, k_core, SHORTEST)
    checks.notes += [note] if note else []
    tally.check_times(checks)


def with_questions(dataset: Dataset, repeats: bool, m: int, test_users: int | None = None, seed: int = 2024) -> Dataset:
    """The data set with ``repeats``, and without the questions of users who have too few unseen items for m candidates.

    Args:
        dataset: Without questions.
        repeats: See ``Dataset``.
        m: Candidates of a question.
        test_users: How many users are asked, drawn at random; None: all.
        seed: Random seed of the draw.

    Raises:
        DataError: No question is left.
    """
    dataset = replace(dataset, repeats=repeats)
    unasked = users_to_leave_out(dataset, m)
    catalog, users, sequences = dataset.catalog, dataset.user_ids, dataset.sequences
    chosen = sampled_users(replace(dataset, unasked=unasked), test_users, seed)
    result = make_dataset(dataset.name, catalog, users, sequences, dataset.cuts, repeats, unasked, chosen)
    for part in SPLITS:
        if len(result.questions(part)):
            continue
        if chosen is not None and len(replace(result, asked=None).questions(part)):
            raise DataError(
                f"none of the {len(chosen)} users that were drawn has a question in the {part} part of {dataset.name}",
                "draw more of them with --test-users, or others with another --seed",
            )
        raise DataError(
            f"{dataset.name} has no question in its {part} part: its users had all of the next items before, or "
            f"have fewer than {m - 1} unseen items for negatives",
            "--repeats makes them questions, --duplicates first leaves them out; or ask for fewer candidates",
        )
    return result


def _refuse_empty_parts(dataset: Dataset) -> None:
    empty = [part for part in SPLITS if not len(dataset.targets(part))]
    if not (lengths_of(dataset.train()) > 1).any():
        empty.insert(0, "training")
    if empty:
        raise DataError(
            f"{dataset.name}, split by time, has no interactions in {' and '.join(empty)}",
            "check the times, or use the split leave-one-out",
        )


def cuts_by_time(times: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """How many interactions of each user are in the first 80%, and in the first 90% of all (DELRec, section 5.1).

    Interactions with equal times stay in the same part, so that training sees nothing of the time of a question.
    """
    all_times = np.sort(np.concatenate(times))
    boundaries = all_times[[int(0.8 * len(all_times)), int(0.9 * len(all_times))]]
    return np.array([np.searchsorted(user_times, boundaries) for user_times in times], dtype=np.int64)


def drop_untitled(interactions: Interactions, titles: Mapping[str, str]) -> tuple[Interactions, int]:
    """The interactions with items that have a title, and how many were dropped.

    Raises:
        DataError: No item has a title.
    """
    untitled = np.array([item not in titles for item in interactions.item_ids], dtype=bool)[interactions.items]
    if untitled.all():
        raise DataError("no item of the log is in the item list", "check that both files use the same item ids")
    return interactions.take(~untitled), int(untitled.sum())


def k_core_rows(users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.bool_]:
    """Which interactions remain when every user and item must have at least k, applied until nothing changes.

    Args:
        users: User index per row.
        items: Item index per row.
        k: Minimum interactions; for users at least ``SHORTEST`` in any case.
    """
    in_core = k_core(lambda: [(users, items)], int(users.max()) + 1, int(items.max()) + 1, k)
    remaining: npt.NDArray[np.bool_] = in_core[0][users] & in_core[1][items]
    return remaining


def k_core(
    blocks: Callable[[], Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]], users: int, items: int, k: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which users and which items remain, as ``k_core_rows``: bool ``[users]`` and ``[items]``.

    Args:
        blocks: All rows, user index and item index; every round reads them once.
        users: How many there are.
        items: How many there are.
        k: Minimum interactions.
    """
    user_in, item_in = np.ones(users, dtype=bool), np.ones(items, dtype=bool)
    while True:
        by_user, by_item = np.zeros(users, dtype=np.int64), np.zeros(items, dtype=np.int64)
        for of_user, of_item in blocks():
            remaining = user_in[of_user] & item_in[of_item]
            first = int(of_user.min())
            counts = np.bincount(of_user[remaining] - first)
            by_user[first : first + len(counts)] += counts
            by_item += np.bincount(of_item[remaining], minlength=items)
        users_left, items_left = user_in & (by_user >= max(k, SHORTEST)), item_in & (by_item >= k)
        if users_left.sum() == user_in.sum() and items_left.sum() == item_in.sum():
            return user_in, item_in
        user_in, item_in = users_left, items_left


def id_order(ids: Sequence[str]) -> list[int]:
    """The order of ids: numbers by value, then the others."""
    return sorted(range(len(ids)), key=lambda n: (not ids[n].isdecimal(), _value(ids[n]), ids[n]))


def sort_key(text: str) -> str:
    """A text that is ordered, with the id itself for equal ones, as ``id_order`` orders ids."""
    digits = str(_value(text))
    return f"0{len(digits):03}{digits}" if text.isdecimal() else "1"


def _number(ids: Sequence[str], rows: npt.NDArray[np.int64]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Distinct ids in order, and each row's index into them."""
    order = id_order(ids)
    position = np.empty(len(ids), dtype=np.int64)
    position[order] = np.arange(len(ids))
    return [ids[n] for n in order], position[rows]


def _value(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 100 else 0
