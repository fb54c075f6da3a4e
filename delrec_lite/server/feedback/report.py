"""What the feedback log shows: clicks by rank, coverage, events a list, and one bundle against another."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.evaluation.proportions import Difference, Share, difference, wilson
from delrec_lite.server.feedback.store import open_for_reading

PEEKING = (
    "Decide before the comparison how many lists it shall have, and read p once, then: who looks again and again "
    "until p is below 0.05 finds differences that are not there."
)


@dataclass(frozen=True)
class EventCount:
    """Events of one kind.

    Attributes:
        count: Of them.
        lists: Lists with at least one.
        per_list: Events for each served list.
        value: Sum of their values.
    """

    count: int
    lists: int
    per_list: float
    value: float


@dataclass(frozen=True)
class BundleReport:
    """One bundle's lists.

    Attributes:
        bundle: Name and version.
        lists: Served.
        popularity: Of them, those ranked by popularity alone, for nothing of the history was known.
        callers: Different users and sessions; lists without either are not counted.
        first: When the first list was served, seconds since 1970.
        last: When the last one was.
        clicked: Lists with at least one event of the kind that is asked about.
        by_rank: The share of lists whose item at rank 1, 2, ... has that event.
        served: Different items that were served.
        coverage: Of the catalogue; None where its size is not known.
        events: By kind.
    """

    bundle: str
    lists: int
    popularity: int
    callers: int
    first: float
    last: float
    clicked: Share
    by_rank: list[Share]
    served: int
    coverage: float | None
    events: dict[str, EventCount]


@dataclass(frozen=True)
class ArmReport:
    """One side of a comparison.

    Attributes:
        arm: ``A`` or ``B``.
        bundles: That it served; more than one where a bundle was replaced meanwhile.
        callers: Users, sessions, and lists without either.
        clicked: Lists with at least one event of the kind that is asked about.
    """

    arm: str
    bundles: list[str]
    callers: int
    clicked: Share


@dataclass(frozen=True)
class Comparison:
    """B against A, on the lists that were served while both shared the traffic.

    Attributes:
        a: The served bundle.
        b: The one that it is compared with.
        difference: Of the shares of lists, B less A; None where one side has no list.
        note: How to read it.
    """

    a: ArmReport
    b: ArmReport
    difference: Difference | None
    note: str = PEEKING


@dataclass(frozen=True)
class Report:
    """The report on a feedback log.

    Attributes:
        event: The kind of event that counts as success.
        bundles: The one with most lists first.
        comparison: Where two bundles shared the traffic.
    """

    event: str
    bundles: list[BundleReport]
    comparison: Comparison | None


def report(path: Path, event: str = "click") -> Report:
    """Read a feedback log; servers may go on writing it.

    Args:
        path: The SQLite file.
        event: The kind of event that counts as success.

    Raises:
        StorageError: There is no such log, or it cannot be read.
        UsageError: There is no such event in it, but others.
    """
    with closing(open_for_reading(path)) as database:
        try:
            database.execute("BEGIN")  # one state of the log for all queries
            known = [row[0] for row in database.execute("SELECT DISTINCT event FROM events ORDER BY event")]
            if known and event not in known:
                raise UsageError(f"there is no event {event!r} in {path}", f"it has {', '.join(known)}")
            rows = database.execute("SELECT id, label, catalogue FROM bundles").fetchall()
            bundles = [_bundle(database, number, label, items, event) for number, label, items in rows]
            found = sorted((b for b in bundles if b is not None), key=lambda b: -b.lists)
            return Report(event, found, _comparison(database, event))
        except sqlite3.Error as error:
            raise StorageError(f"{path} cannot be read: {error}", "the file may be damaged; keep a copy") from error


def _bundle(
    database: sqlite3.Connection, number: int, label: str, catalogue: int | None, event: str
) -> BundleReport | None:
    lists, popularity, callers, first, last = database.execute(
        "SELECT count(*), coalesce(sum(basis = 'popularity'), 0), count(DISTINCT who), min(time), max(time) "
        "FROM served WHERE bundle = ?",
        (number,),
    ).fetchone()
    if not lists:
        return None
    items = {item for _, item in _items(database, number)}
    clicked = _clicked_lists(database, number, event)
    return BundleReport(
        bundle=label,
        lists=lists,
        popularity=popularity,
        callers=callers,
        first=first,
        last=last,
        clicked=wilson(clicked, lists),
        by_rank=_by_rank(database, number, event),
        served=len(items),
        coverage=min(1.0, len(items) / catalogue) if catalogue else None,
        events=_events(database, number, lists),
    )


def _items(database: sqlite3.Connection, bundle: int) -> Iterator[tuple[int, str]]:
    """Every rank and item that was served."""
    for (text,) in database.execute("SELECT items FROM served WHERE bundle = ?", (bundle,)):
        for rank, (item, _) in enumerate(json.loads(text), 1):
            yield rank, item


def _clicked_lists(database: sqlite3.Connection, bundle: int, event: str) -> int:
    query = (
        "SELECT count(DISTINCT served) FROM events JOIN served ON served.id = events.served "
        "WHERE bundle = ? AND event = ?"
    )
    return int(database.execute(query, (bundle, event)).fetchone()[0])


def _by_rank(database: sqlite3.Connection, bundle: int, event: str) -> list[Share]:
    """The share of lists that reach each rank and whose item there has the event."""
    lengths = database.execute("SELECT length, count(*) FROM served WHERE bundle = ? GROUP BY length", (bundle,))
    reached: dict[int, int] = dict(lengths.fetchall())
    query = (
        "SELECT rank, count(DISTINCT served) FROM events JOIN served ON served.id = events.served "
        "WHERE bundle = ? AND event = ? GROUP BY rank"
    )
    hits: dict[int, int] = dict(database.execute(query, (bundle, event)).fetchall())
    shares, lists = [], sum(reached.values())
    for rank in range(1, max(reached, default=0) + 1):
        lists -= reached.get(rank - 1, 0)
        shares.append(wilson(min(hits.get(rank, 0), lists), lists))
    return shares


def _events(database: sqlite3.Connection, bundle: int, lists: int) -> dict[str, EventCount]:
    query = (
        "SELECT event, count(*), count(DISTINCT served), coalesce(sum(value), 0) FROM events "
        "JOIN served ON served.id = events.served WHERE bundle = ? GROUP BY event ORDER BY count(*) DESC, event"
    )
    rows = database.execute(query, (bundle,)).fetchall()
    return {kind: EventCount(count, hit, count / lists, value) for kind, count, hit, value in rows}


def _comparison(database: sqlite3.Connection, event: str) -> Comparison | None:
    """B against A over the time in which B was served; None where there is no B."""
    began, ended = database.execute("SELECT min(id), max(id) FROM served WHERE arm = 'B'").fetchone()
    if began is None:
        return None
    callers: dict[str, dict[str, list[int]]] = {"A": defaultdict(lambda: [0, 0]), "B": defaultdict(lambda: [0, 0])}
    query = (
        "SELECT arm, coalesce(who, 'request:' || request), "
        "EXISTS (SELECT 1 FROM events WHERE events.served = served.id AND event = ?) "
        "FROM served WHERE id BETWEEN ? AND ?"
    )
    # The first and last list of B bound the comparison; A's lists just before and after are no loss.
    for arm, who, hit in database.execute(query, (event, began, ended)):
        counts = callers.setdefault(arm, defaultdict(lambda: [0, 0]))[who]
        counts[0] += hit
        counts[1] += 1
    groups = [np.array(list(callers[arm].values()), np.int64).reshape(-1, 2) for arm in "AB"]
    sides = []
    for arm, group in zip("AB", groups, strict=True):
        labels = database.execute(
            "SELECT DISTINCT label FROM served JOIN bundles ON bundles.id = served.bundle "
            "WHERE arm = ? AND served.id BETWEEN ? AND ? ORDER BY label",
            (arm, began, ended),
        )
        hits, lists = (int(total) for total in group.sum(0))
        sides.append(ArmReport(arm, [row[0] for row in labels], len(group), wilson(hits, lists)))
    return Comparison(sides[0], sides[1], difference(groups[0], groups[1]))
