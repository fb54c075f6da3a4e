"""What an update reads: the data set as it is, the new log, and titles of new items from a list or from the bundle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from delrec_lite.data.badrows import BadRows
from delrec_lite.data.checked import Columns
from delrec_lite.data.extend import NOTHING_LISTED, Extended, Known, extend
from delrec_lite.data.kept import TIMES, load_source, load_times, source_of
from delrec_lite.data.locations import locate
from delrec_lite.data.newer import read_log
from delrec_lite.data.prepare import prepare
from delrec_lite.data.readers import ItemList, named_once, read_items_from
from delrec_lite.data.store import load_settings
from delrec_lite.data.tables import Layout
from delrec_lite.data.typed_columns import ColumnSpec
from delrec_lite.data.waiting import Waiting
from delrec_lite.errors import DataError
from delrec_lite.pipeline import generations
from delrec_lite.pipeline.updates.run import TrainedRun
from delrec_lite.runtime.bundle import Bundle

# Bytes that a database may use for an item list.
ITEM_MEMORY = 1 << 30


@dataclass(frozen=True)
class NewData:
    """New rows as the user names them; the files are read as those of the first preparation unless something is given.

    Attributes:
        interactions: Where they are, see ``locations.locate``.
        items: Where titles of new items are; None: nowhere.
        columns: Names of columns that differ from the first preparation's, by ``Columns``' attributes.
        layout: The same by ``Layout``'s attributes.
        bad: What is done with malformed rows, and with rows whose item has no title.
    """

    interactions: str
    items: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)


@dataclass(frozen=True)
class Inputs:
    """What an update begins with.

    Attributes:
        known: The data set as it is.
        extended: With the new rows.
        source: How the first log was read.
        listed: Items of the new list.
    """

    known: Known
    extended: Extended
    source: dict[str, Any]
    listed: frozenset[str]


def read_inputs(run: TrainedRun, new: NewData) -> Inputs:
    """Read the new rows and extend the data set in memory.

    Raises:
        DataError: The files cannot be read or do not fit the data set.
    """
    folder = run.dataset_folder
    _, settings = load_settings(folder)
    waiting = Waiting.load(generations.waiting_path(run.folder, run.number))
    known = Known(run.dataset, _times(run), run.candidates, settings, waiting)
    first = load_source(folder)
    columns, layout = replace(first[0], **new.columns), replace(first[1], **new.layout)
    named_once(list(asdict(columns).items()))
    listed = _listed(new, columns, layout, known)
    titled = _with_added(listed, run.bundle)
    log = read_log(new.interactions, columns, new.bad, layout)
    drop = new.bad.policy == "drop"
    where = str(locate(new.interactions).path)  # without a password
    extended = extend(known, log, titled, drop, where)
    return Inputs(known, extended, source_of(*first), frozenset(listed.titles))


def _listed(new: NewData, columns: Columns, layout: Layout, known: Known) -> ItemList:
    if new.items is None:
        return NOTHING_LISTED
    place, catalog = locate(new.items), known.dataset.catalog
    texts = known.settings.text_columns if catalog.texts else ()
    specs = [ColumnSpec(column.name, column.kind) for column in catalog.columns]
    return read_items_from(place, texts, specs, columns, new.bad, layout, ITEM_MEMORY)


def _with_added(listed: ItemList, bundle: Path) -> ItemList:
    """The list, and before it the items that ``catalog add`` gave the bundle."""
    opened = Bundle.open(bundle, verify=False)
    items, added = opened.items, slice(opened.trained, None)
    titles = dict(zip(items.ids[added], items.titles[added], strict=True))
    texts = dict(zip(items.ids[added], opened.added_texts, strict=True))
    return replace(listed, titles={**titles, **listed.titles}, texts={**texts, **listed.texts})


def _times(run: TrainedRun) -> Any:
    """The times of the data set's interactions.

    Raises:
        DataError: The user's own data set was prepared without them.
    """
    folder, data = run.dataset_folder, run.recipe.data
    times = load_times(folder, run.dataset.interactions)
    if times is not None:
        return times
    without = DataError(
        f"{folder} was prepared without the times of interactions, by an older version",
        "prepare it again with the same options: the data set stays the same, and nothing is trained again",
    )
    if data.folder is not None:
        raise without
    with TemporaryDirectory() as temporary:
        again = Path(temporary) / "dataset"
        source, kept = run.pulled["data"].folder, (data.duplicates, data.repeats)
        dataset = prepare(
            data.name, source, again, data.k_core, data.candidates, data.seed, run.console, data.split,
            data.text_columns, *kept, item_columns=data.item_columns,
        )  # fmt: skip
        if dataset.fingerprint != run.dataset.fingerprint:
            raise without
        times = load_times(again, dataset.interactions)
        assert times is not None
        np.save(folder / TIMES, times, allow_pickle=False)
    return times
