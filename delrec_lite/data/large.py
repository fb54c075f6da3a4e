"""`prepare` of a log that memory does not hold: DuckDB reads and sorts, passes over plain files count and split."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delrec_lite.console import QUIET, Console
from delrec_lite.data.arrays import ITEMS, OFFSETS, map_sequences, write_array, write_items
from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.batches import BATCH_ROWS
from delrec_lite.data.checked import Columns, check_rows
from delrec_lite.data.checks import Checks, Tally
from delrec_lite.data.engine import engine_errors
from delrec_lite.data.kept import TIMES, source_of
from delrec_lite.data.locations import Location, is_pipe
from delrec_lite.data.log_table import LogTable
from delrec_lite.data.ordered_log import OrderedLog, order_statistics, ordered_keys, write_ordered
from delrec_lite.data.packages import duckdb
from delrec_lite.data.prepare import asked, check_core, check_settings, k_core, say_result, titled_catalog
from delrec_lite.data.readers import log_columns, no_interactions, read_items_from
from delrec_lite.data.sources import copy_pipe
from delrec_lite.data.store import Settings, dataset_files, make_dataset, write_large
from delrec_lite.data.tables import Layout
from delrec_lite.data.times import TimesSoFar
from delrec_lite.data.typed_columns import parse_specs
from delrec_lite.data.types import Catalog, Dataset, Ints
from delrec_lite.errors import DataError, StorageError
from delrec_lite.files import put_in_place, writing
from delrec_lite.machine import cores_allowed

# Of the memory that is given: the rest is this program's own, and what DuckDB takes beside its limit.
ENGINE_SHARE = 0.5


@dataclass(frozen=True)
class LargeLog:
    """What to read, and how.

    Attributes:
        log: The interactions.
        items: The item list, which is in memory as a whole.
        columns: Their columns.
        layout: How text files are written.
        memory: Bytes to use for all of it.
    """

    log: Location
    items: Location
    columns: Columns
    layout: Layout
    memory: int


def prepare_large(
    name: str,
    source: LargeLog,
    out: Path,
    settings: Settings,
    bad: BadRows,
    console: Console = QUIET,
    checks: Checks | None = None,
) -> tuple[Dataset, int]:
    """Prepare a log in bounded memory, with the result of ``prepare_tables``.

    In memory are the item list, the ids of the users who remain, some numbers for each user and item, and blocks of
    the log. Beside ``out`` it needs disk space of about 60 bytes an interaction until it ends.

    Args:
        name: Of the data set.
        source: What to read.
        out: Folder to write; an existing data set in it is replaced.
        settings: See ``Settings``.
        bad: Policy for malformed rows, and what was dropped.
        console: Shows the stages and counts.
        checks: Gets what was found in the log.

    Returns:
        The data set, its sequences mapped from ``out``, and how many rows had an item without a title.

    Raises:
        DataError: See ``prepare_tables`` and the readers.
        StorageError: ``out`` cannot be written.
        OutOfMemoryError: DuckDB cannot sort the log in so little memory.
    """
    check_settings(settings)
    checks = Checks() if checks is None else checks
    duckdb()  # before anything is written
    try:
        with (
            writing(out, "data set", dataset_files) as (target, staging),
            engine_errors(out, "give more with --memory"),
        ):
            staging.mkdir()
            work = staging / "work"
            work.mkdir()
            dataset, untitled = _prepared(name, source, staging, work, settings, bad, console, checks)
            put_in_place(staging, target, "data set", dataset_files)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}", "choose a folder you own on a disk with free space"
        ) from error
    say_result(dataset, settings, checks, console)
    return dataset, untitled


def _prepared(
    name: str,
    source: LargeLog,
    staging: Path,
    work: Path,
    settings: Settings,
    bad: BadRows,
    console: Console,
    checks: Checks,
) -> tuple[Dataset, int]:
    table = LogTable(work, int(source.memory * ENGINE_SHARE), cores_allowed())
    try:
        times = _read(source, table, work, bad, console)
        specs = parse_specs(settings.item_columns)
        listed = read_items_from(
            source.items, settings.text_columns, specs, source.columns, bad, source.layout, source.memory
        )
        for malformed in bad.files:
            console.say(f"  dropped: {malformed}")
        ids, untitled = table.number_items(listed.titles if bad.policy == "drop" else None)
        if not ids:
            raise DataError("no item of the log is in the item list", "check that both files use the same item ids")
        if untitled:
            console.say(f"  dropped: {untitled} interactions with items that have no title")
        checks.notes += bad.notes
        table.number_users()
        console.say(f"  {table.rows} rows read; sorting them")
        kind = np.dtype(np.int64 if times.is_exact else np.float64)
        batches = table.sorted_rows(times.is_exact, BATCH_ROWS)
        written = write_ordered(batches, work / "ordered", kind, len(ids), settings.duplicates)
        log, checks.rows, checks.duplicates = written.log, written.rows, written.duplicates
        before = {"users": len(log.users), "items": len(ids), "rows": int(log.lengths.sum())}
        checks.duplicates_left_out = checks.rows - before["rows"]
        users, items = k_core(log.pairs, len(log.users), len(ids), settings.k_core)
        if not users.any() or not items.any():
            raise DataError(f"{name} has no interactions after the {settings.k_core}-core", "lower --k-core")
        user_ids = table.user_ids(log.users[users])
    finally:
        table.close()
    core = log.only(users, items, work / "core")
    shutil.rmtree(log.folder)
    catalog = Catalog(core_ids := tuple(i for i, kept in zip(ids, items, strict=True) if kept), core_ids)
    dataset, tally = _split(name, catalog, user_ids, core, staging, settings)
    catalog = titled_catalog(dataset, listed.titles, listed.texts, listed.rows)
    dataset = make_dataset(name, catalog, user_ids, dataset.sequences, dataset.cuts)
    check_core(checks, before, dataset, settings.k_core, tally)
    dataset, candidates = asked(dataset, settings, checks)
    write_array(staging / TIMES, int(core.lengths.sum()), core.time, (times for _, _, times in core.blocks()))
    shutil.rmtree(work)
    write_large(dataset, candidates, settings, staging, checks.dump(), source_of(source.columns, source.layout))
    return dataset, untitled


def _read(source: LargeLog, table: LogTable, work: Path, bad: BadRows, console: Console) -> TimesSoFar:
    """Put all usable rows into the table."""
    copy = copy_pipe(source.log.files[0], work / "standard-input") if is_pipe(source.log) else None
    wanted, times = source.columns, TimesSoFar()
    memory, path, name = source.memory // 8, source.log.path, ""
    expected = (wanted.user, wanted.item, wanted.time)
    for opened in source.log.opened(source.layout, expected, memory=memory, copy=copy):
        path, malformed, blank, words = opened.path, 0, 0, False
        examples: list[tuple[int, str]] = []
        columns = log_columns(wanted, opened.numbered)
        for batch in opened.read((columns.user, columns.item, columns.time), ()):
            rows = check_rows(batch, columns, source.layout.keep_na)
            malformed, blank, words = malformed + rows.malformed, blank + rows.blank, words or rows.words
            examples = sorted([*examples, *rows.examples])[:SHOWN]
            times.add(rows.times)
            table.add(rows)
            name = name or batch.where(columns.time)
        bad.add(path, malformed, examples, words)
        bad.skip(path, blank)
    bad.notes[:0] = times.notes(name)
    table.finish_adding()
    if not table.rows:
        raise no_interactions(path)
    return times


def _split(
    name: str, catalog: Catalog, user_ids: Sequence[str], log: OrderedLog, folder: Path, settings: Settings
) -> tuple[Dataset, Tally]:
    """The sequences, written to the data set's folder and mapped, their cuts, and what the checks count."""
    write_items(folder / ITEMS, int(log.lengths.sum()), (items for _, items, _ in log.blocks()))
    np.save(folder / OFFSETS, np.concatenate([[0], np.cumsum(log.lengths)]))
    cuts = None if settings.split == "leave-one-out" else _cuts_by_time(log)
    tally = Tally()
    for users, items, times in log.blocks():
        sequences = np.split(items, np.cumsum(log.lengths[users])[:-1])
        block = Dataset(name, catalog, (), sequences, "", None if cuts is None else cuts[users])
        tally.add(block, items, times)
    return Dataset(name, catalog, tuple(user_ids), map_sequences(folder), "", cuts), tally


def _cuts_by_time(log: OrderedLog) -> Ints:
    """As ``prepare.cuts_by_time``."""
    count = int(log.lengths.sum())
    boundaries = order_statistics(log, [int(0.8 * count), int(0.9 * count)])
    cuts = np.empty((len(log.lengths), 2), np.int64)
    for users, _, times in log.blocks():
        starts = np.cumsum(log.lengths[users]) - log.lengths[users]
        keys = ordered_keys(times)
        for column, boundary in enumerate(boundaries):
            cuts[users, column] = np.add.reduceat(keys < boundary, starts, dtype=np.int64)
    return cuts
