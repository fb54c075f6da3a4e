"""Reads a log as a whole into memory from any location: a file, a folder or pattern of files, a query."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.badrows import SHOWN, BadRows
from delrec_lite.data.checked import CheckedRows, Columns, check_rows
from delrec_lite.data.locations import locate
from delrec_lite.data.readers import Interactions, log_columns, no_interactions, read_interactions
from delrec_lite.data.tables import Layout
from delrec_lite.data.times import TimesSoFar
from delrec_lite.data.types import Ints


def read_log(text: str, columns: Columns, bad: BadRows, layout: Layout) -> Interactions:
    """Read the rows of a location, one table after another; arguments and errors as ``read_interactions``.

    Args:
        text: As the user named it, see ``locations.locate``.
        columns: Names of the columns.
        bad: Collects malformed rows.
        layout: How text files are written.
    """
    location = locate(text)
    if location.is_single:
        return read_interactions(location.files[0], columns, bad=bad, layout=layout)
    parts: list[CheckedRows] = []
    times, name = TimesSoFar(), ""
    for opened in location.opened(layout, (columns.user, columns.item, columns.time)):
        malformed, blank, words = 0, 0, False
        examples: list[tuple[int, str]] = []
        own = log_columns(columns, opened.numbered)
        for batch in opened.read((own.user, own.item, own.time), ()):
            rows = check_rows(batch, own, layout.keep_na)
            malformed, blank, words = malformed + rows.malformed, blank + rows.blank, words or rows.words
            examples = sorted([*examples, *rows.examples])[:SHOWN]
            times.add(rows.times)
            parts.append(rows)
            name = name or batch.where(own.time)
        bad.add(opened.path, malformed, examples, words)
        bad.skip(opened.path, blank)
    bad.notes += times.notes(name)
    usable = np.concatenate([part.usable for part in parts]) if parts else np.empty(0, bool)
    if not usable.any():
        raise no_interactions(location.path)
    values = [part.times.exact if times.is_exact else part.times.values for part in parts]
    users, items = (_joined(parts, side) for side in ("user", "item"))
    return Interactions(users[0], items[0], users[1], items[1], np.concatenate(values)).take(usable)  # type: ignore[arg-type]


def _joined(parts: Sequence[CheckedRows], side: str) -> tuple[tuple[str, ...], Ints]:
    """The distinct ids of all parts, and each row's index into them."""
    number: dict[str, int] = {}
    rows = []
    for part in parts:
        ids = getattr(part, f"{side}_ids").to_pylist()
        of_part = np.array([number.setdefault(text, len(number)) for text in ids], dtype=np.int64)
        rows.append(of_part[getattr(part, f"{side}s")])
    return tuple(number), np.concatenate(rows)
