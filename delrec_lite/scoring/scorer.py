"""`Scorer`: an Arrow table of histories in, an Arrow table of recommendations out.

The same object serves a plain loop, ``ray.data.read_parquet(...).map_batches(Scorer, ...)`` and Spark's ``mapInArrow``.
It is light until its first table: then it opens its bundle, so that it can be sent to another process before.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite.data.badrows import Policy, parse_policy
from delrec_lite.data.frames import table_of
from delrec_lite.data.packages import arrow
from delrec_lite.data.types import Floats, Ints
from delrec_lite.data.values import MISSING, as_text
from delrec_lite.errors import BundleError, DataError, UsageError
from delrec_lite.evaluation.best import best
from delrec_lite.files import sha256_of
from delrec_lite.runtime.arguments import check_k, titles_in
from delrec_lite.runtime.coarse import catalogue_scores, refined
from delrec_lite.runtime.manifest import MANIFEST
from delrec_lite.runtime.remote import located
from delrec_lite.scoring.lists import lists_of, split_lists

if TYPE_CHECKING:
    from delrec_lite.runtime.recommender import Recommender

USER, HISTORY = "user_id", "history"
# Scores of the catalogue that are held at once, in bytes; and the requests that engines evaluate together.
SCORES_BYTES, TOGETHER = 1 << 26, 16
MOST_TOGETHER = 256


def bundle_fingerprint(bundle: str | os.PathLike[str]) -> str:
    """The sha256 of a bundle's manifest, which holds those of all its files.

    Raises:
        BundleError: There is no bundle.
    """
    try:
        return sha256_of(located(bundle) / MANIFEST)
    except OSError as error:
        raise BundleError(f"no bundle at {bundle}", "check the path; `delrec-lite export` writes bundles") from error


def ids_in(values: Any, where: str) -> tuple[str, ...]:
    """Item ids in a series of any kind; numbers are ids too.

    Raises:
        UsageError: It is no series, such as one text alone.
    """
    return tuple(map(str, titles_in(values, where)))


class Scorer:
    """Recommends items to the users of a table.

    Args:
        bundle: Its folder, or ``hf://ORG/NAME[@REVISION]``, which every process that scores can read.
        k: How many items for each user.
        candidates: Ids of the items that are ranked; None: the whole catalogue.
        exclude: Ids of items that are never recommended.
        where: A filter over item columns, which every recommended item passes, see ``runtime.filters``.
        exclude_history: Whether the items of a history are left out. None: out of the catalogue, unless repeats count
            in the data set; never out of the candidates.
        on_bad_row: ``refuse`` raises an error for a user without an id, without a history, or of whose history no item
            is known; ``drop`` leaves them out.
        user: The column with the user's id, of any type.
        history: The column with the ids of the user's items, oldest first: a list, or text as ``lists_of`` reads it.
            An empty list gives the most popular items.
        threads: Of the engine. Many processes of one thread answer more users than one process of many.
        quant: As in ``Recommender.load``.
        fused: As in ``Recommender.load``.
        exact: As in ``Recommender.load``.
        fingerprint: What ``bundle_fingerprint`` must give where the bundle is opened; empty: anything.
        opened: A recommender of the bundle, to use it instead of opening another; its caller closes it.

    Raises:
        UsageError: ``k`` is no whole number above 0, there is a list of candidates without any, or an argument of
            another kind.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        k: int = 10,
        candidates: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        where: str | None = None,
        exclude_history: bool | None = None,
        on_bad_row: Policy = "refuse",
        user: str = USER,
        history: str = HISTORY,
        threads: int = 1,
        quant: str | None = None,
        fused: bool | None = None,
        fingerprint: str = "",
        exact: bool = False,
        opened: "Recommender | None" = None,
    ) -> None:
        self.bundle, self.k, self.threads = os.fspath(bundle), check_k(k), threads
        self.candidates = None if candidates is None else ids_in(candidates, "candidates")
        self.exclude, self.exclude_history = ids_in(exclude, "exclude"), exclude_history
        self.on_bad_row: Policy = parse_policy(on_bad_row, "on_bad_row")
        self.user, self.history, self.quant, self.fused, self.fingerprint = user, history, quant, fused, fingerprint
        self.exact = exact
        self.where, self.dropped = where, 0
        if opened is not None:
            self.recommender = opened
        if self.candidates == ():
            raise UsageError("there are no candidates", "give at least one, or no list, to rank the whole catalogue")

    @property
    def schema(self) -> Any:
        """Columns of what is returned, as an Arrow schema; the user's id has the type that it had."""
        pa = arrow()
        return pa.schema([(USER, pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())])

    def __call__(self, table: Any) -> Any:
        """Recommendations for a table's users, in its order.

        Args:
            table: An Arrow table or record batch, or a frame of pandas or Polars, with a user in each row; further
                columns are not read.

        Returns:
            An Arrow table with the columns ``user_id``, ``rank`` (from 1), ``item_id`` and ``score``; up to ``k`` rows
            for each user.

        Raises:
            BundleError: The bundle cannot be opened, or is another one than its fingerprint says.
            DataError: A column is missing or of another type; with ``refuse``: a bad row.
            UsageError: The bundle ranks candidates alone, and there are none; or no candidate is known; or it is no
                table.
        """
        pa = arrow()
        if not isinstance(table, pa.Table | pa.RecordBatch):
            table = pa.table(dict(table_of(table, (self.user, self.history), "the table").columns))
        for name in (self.user, self.history):
            if name not in table.schema.names:
                raise DataError(f"the table has no column {name!r}", f"it has: {', '.join(table.schema.names)}")
        ids = table.column(self.user)
        rows, histories = self._histories(table, ids)
        items, scores, lengths = self._answers(histories)
        places = np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths] or [np.empty(0, np.int32)])
        users = pa.chunked_array([ids] if isinstance(ids, pa.Array) else ids.chunks, ids.type)
        columns = [
            users.take(pa.array(np.repeat(rows, lengths))),
            pa.array(places),
            pa.array(self._ids, pa.string()).take(pa.array(items)),
            pa.array(scores),
        ]
        return pa.table(dict(zip(self.schema.names, columns, strict=True)))

    def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Recommendations for record batches, as record batches: what Spark's ``mapInArrow`` calls."""
        for batch in batches:
            yield from self(batch).to_batches()

    @property
    def together(self) -> int:
        """How many users are scored at once: whole groups of what engines evaluate together."""
        most = SCORES_BYTES // (4 * len(self._ids)) // TOGETHER * TOGETHER
        return max(TOGETHER, min(MOST_TOGETHER, most))

    def _histories(self, table: Any, ids: Any) -> tuple[Ints, list[list[int]]]:
        """The good rows of a table, and the known items of each."""
        pa = arrow()
        column = pa.chunked_array([ids], ids.type) if isinstance(ids, pa.Array) else ids
        users = as_text(column, self.user).to_pylist()
        values, lengths = lists_of(table.column(self.history), self.history)
        rows, histories = [], []
        for row, given in enumerate(split_lists(values.to_pylist(), lengths)):
            items = [self._index[item] for item in given or () if item in self._index]
            reason = f"{self.user} is empty" if users[row] in MISSING else why_bad(self.history, given, bool(items))
            if not reason:
                rows.append(row)
                histories.append(items)
            elif self.on_bad_row == "refuse":
                raise DataError(f"user {users[row]!r}: {reason}", "correct it, or leave such rows out: on_bad_row=drop")
            else:
                self.dropped += 1
        return np.array(rows, np.int64), histories

    def _answers(self, histories: list[list[int]]) -> tuple[Ints, Floats, list[int]]:
        """Items and scores of all users one after another, and how many of them are each user's."""
        items: list[Ints] = [np.empty(0, np.int64)]
        scores: list[Floats] = [np.empty(0, np.float32)]
        for start in range(0, len(histories), self.together):
            for chosen, values in self._ranked(histories[start : start + self.together]):
                items.append(chosen)
                scores.append(values)
        return np.concatenate(items), np.concatenate(scores), [len(chosen) for chosen in items[1:]]

    def _ranked(self, histories: list[list[int]]) -> Iterator[tuple[Ints, Floats]]:
        if not self.recommender.bundle.prompt.format.ranks_catalogue:
            yield from map(self._asked, histories)
            return
        known = [n for n, history in enumerate(histories) if history]
        scores = dict(zip(known, catalogue_scores(self.recommender.engine, [histories[n] for n in known]), strict=True))
        for n, history in enumerate(histories):
            included = self._included
            if self._without_history and history:
                included = included.copy()
                included[history] = False
            values, refinement = scores.get(n) or (self.recommender.selector.popular(), None)
            if refinement is not None:
                values, items = refined(values, included, self.k, refinement)
                yield items[: self.k], values[items[: self.k]]
                continue
            among = np.flatnonzero(included)
            values = values[among]
            order = best(values, self.k)
            yield among[order], values[order]

    def _asked(self, history: list[int]) -> tuple[Ints, Floats]:
        """The answer for one user of a bundle whose prompt lists the candidates."""
        if self.candidates is None:
            raise UsageError(f"{self.bundle} ranks candidates alone", "give a list of candidates")
        answer = self.recommender.recommend(
            [f"id:{self._ids[item]}" for item in history],
            self.k,
            [f"id:{item}" for item in self.candidates],
            exclude=[f"id:{item}" for item in self.exclude],
            exclude_history=self.exclude_history,
            where=self.where,
        )
        items = np.array([self._index[ranked.id] for ranked in answer.items], np.int64)
        return items, np.array([ranked.score for ranked in answer.items], np.float32)

    @cached_property
    def recommender(self) -> "Recommender":
        """Opened at the first use, in the process that scores.

        Raises:
            BundleError: It cannot be opened, or is another one than ``fingerprint`` says.
        """
        from delrec_lite.runtime.recommender import Recommender

        self._check_bundle()
        opened = Recommender.load(self.bundle, self.threads, quant=self.quant, fused=self.fused, exact=self.exact)
        self._check_bundle()  # it may have changed meanwhile
        return opened

    def _check_bundle(self) -> None:
        if self.fingerprint and bundle_fingerprint(self.bundle) != self.fingerprint:
            raise BundleError(
                f"the bundle at {self.bundle} is another one than this run began with",
                "give all workers the same bundle, and change it when they have ended",
            )

    @cached_property
    def _ids(self) -> list[str]:
        return self.recommender.bundle.items.ids

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item: n for n, item in enumerate(self._ids)}

    @property
    def _without_history(self) -> bool:
        if self.exclude_history is None:
            return self.candidates is None and not self.recommender.bundle.repeats
        return self.exclude_history

    @cached_property
    def _included(self) -> Any:
        """The items that may be recommended: available ones that pass the filter, bool ``[items]``."""
        included = np.full(len(self._ids), self.candidates is None)
        known = [self._index[item] for item in self.candidates or () if item in self._index]
        if self.candidates is not None and not known:
            raise UsageError("no candidate is in the catalogue", "candidates are item ids of the data set")
        included[known] = True
        included[[self._index[item] for item in self.exclude if item in self._index]] = False
        return included & self.recommender.selector.mask(self.where)[:-1]

    def close(self) -> None:
        """Free the model; the next table opens the bundle again."""
        if (recommender := self.__dict__.pop("recommender", None)) is not None:
            recommender.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened, so that it can be sent to another process."""
        opened = {"recommender", "_ids", "_index", "_included"}
        return {name: value for name, value in vars(self).items() if name not in opened}


def why_bad(name: str, given: Sequence[str] | None, has_known: bool) -> str:
    """Why a history cannot be answered; empty if it can.

    Args:
        name: Of its column.
        given: The ids in it; None: it is no list.
        has_known: Whether one of them is in the catalogue.
    """
    if given is None:
        return f"{name} is missing or no list"
    if has_known or not given:
        return ""
    return f"no item of {name} is in the catalogue, such as {given[0]!r}"
