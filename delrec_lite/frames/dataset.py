"""`Dataset.from_frames`: interactions and items in frames, checked and prepared as `delrec-lite prepare` does."""

import operator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data import types
from delrec_lite.data.badrows import BadRows, parse_policy
from delrec_lite.data.checks import Checks
from delrec_lite.data.duplicates import parse_duplicates
from delrec_lite.data.frames import FrameKind, kind_of, names_of, table_of
from delrec_lite.data.kept import source_of
from delrec_lite.data.prepare import drop_untitled, prepared_tables, say_result
from delrec_lite.data.readers import Columns, Interactions, interactions_of, item_list_of
from delrec_lite.data.store import Settings, parse_split, save_dataset
from delrec_lite.data.tables import Layout, Table
from delrec_lite.data.typed_columns import parse_specs
from delrec_lite.data.types import CandidateSets, Ints
from delrec_lite.errors import DataError, UsageError
from delrec_lite.frames.columns import ColumnNames, log_columns, parse_names
from delrec_lite.frames.ids import Ids
from delrec_lite.frames.wording import PythonConsole, python_words
from delrec_lite.prompts.domain import words_of
from delrec_lite.runtime.arguments import values_in

INTERACTIONS, ITEMS = "interactions", "items"


@dataclass(frozen=True, repr=False)
class Dataset:
    """Interactions and items from frames, prepared; ``from_frames`` makes one.

    Attributes:
        prepared: Catalogue, sequences and split.
        candidates: Candidate sets by split, ``valid`` and ``test``.
        times: Of the interactions, user after user, for updates.
        settings: That it was prepared with.
        checks: What was found in the log: duplicates, repeats, times; ``notes`` says it in words.
        log: All usable interactions, those that the k-core leaves out too: ``recommend`` reads histories from them.
        items: Ids of items as the frame has them.
        columns: Names of the columns of the frames.
        names: The names among them that the caller gave.
        source: How the log was read, for updates.
        kind: ``pandas``, ``polars`` or ``arrow``: what the interactions came in as.
    """

    prepared: types.Dataset
    candidates: dict[str, CandidateSets]
    times: Any
    settings: Settings
    checks: Checks
    log: Interactions
    items: Ids
    columns: Columns
    names: dict[str, str]
    source: dict[str, Any]
    kind: FrameKind

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any,
        columns: ColumnNames | None = None,
        *,
        name: str = "frames",
        domain: str | None = None,
        verb: str | None = None,
        k_core: int = 5,
        candidates: int = 15,
        seed: int = 2024,
        split: str = "leave-one-out",
        text_columns: tuple[str, ...] | list[str] = (),
        item_columns: tuple[str, ...] | list[str] = (),
        duplicates: str = "keep",
        repeats: bool | None = None,
        test_users: int | None = None,
        on_bad_row: str = "refuse",
        keep_na: bool = False,
        quiet: bool = False,
    ) -> "Dataset":
        """Check and prepare frames of pandas or Polars, or Arrow tables.

        A row of ``interactions`` is one interaction: ``user_id``, ``item_id`` and ``datetime`` (or ``timestamp``), as
        RecTools has them; a row of ``items`` is an item: ``item_id`` and ``title``. Other columns are not read. Ids may
        be of any type; recommendations have them as the frames do.

        Args:
            interactions: The log.
            items: The items; each has a title, because the LLM reads titles.
            columns: Your names of the columns: ``{"user": "uid", "item": "sku", "time": "ts", "title": "name"}``.
            name: Of the data set.
            domain: What an item is: ``movie``, ``game``, ``artist``, ``item``, or any noun with ``verb``; default: what
                the recipe says.
            verb: What people have done with an item, such as ``read``; default: the verb of the domain.
            k_core: Minimum interactions per user and per item.
            candidates: Candidates per question: one positive, the others unseen negatives.
            seed: Random seed of the candidate sets.
            split: ``leave-one-out``: each user's last item is for the test and the one before it for validation; or
                ``chronological``: 8:1:1 by time.
            text_columns: Columns of ``items`` that are side text.
            item_columns: Columns of ``items`` that recommendations can be filtered by; each maybe with its type,
                ``price:number``.
            duplicates: Of a user's rows with one item: ``keep`` all, the ``first``, the ``last``, or one of
                ``consecutive`` ones.
            repeats: Whether an item that a user had before may be the next one; default: if that is usual in the log.
            test_users: How many users are evaluated, drawn with the seed; default: all.
            on_bad_row: ``refuse`` or ``drop`` rows without an id, a time or a title, and interactions with items that
                ``items`` lacks.
            keep_na: Words such as ``NULL`` and ``nan`` are ids and titles.
            quiet: Do not show what was found.

        Raises:
            DataError: A column is missing or has no usable type; rows are refused (errors count them from 0); an item
                has no title or two; nothing is left.
            UsageError: No frame, or an option that cannot be.
            ConfigError: A domain without words.
        """
        console = PythonConsole(quiet)
        with python_words():
            bad, checks = BadRows(parse_policy(on_bad_row)), Checks()
            texts, kept = _listed(text_columns, "text_columns"), _listed(item_columns, "item_columns")
            specs, rule, doubles = parse_specs(kept), parse_split(split), parse_duplicates(duplicates)
            core, m, first = _whole(k_core, "k_core"), _whole(candidates, "candidates"), _whole(seed, "seed")
            tested = None if test_users is None else _whole(test_users, "test_users")
            if not _text(name, "name").strip():
                raise UsageError("the data set has no name", 'give one: name="shop"')
            for flag, value in (("keep_na", keep_na), ("repeats", False if repeats is None else repeats)):
                _truth(value, flag)
            if domain is not None:
                words_of(_text(domain, "domain"), None if verb is None else _text(verb, "verb"))
            elif verb is not None:
                raise UsageError(f"verb is {verb!r}, and there is no domain", 'say what an item is: domain="book"')
            settings = Settings(core, m, first, rule, texts, doubles, repeats, kept, tested, domain, verb)
            named = parse_names(columns)
            names = log_columns(named, names_of(interactions, INTERACTIONS))
            log = interactions_of(_filled(interactions, names), names, bad, keep_na)
            names_of(items, ITEMS)
            listed = item_list_of(
                lambda wanted, _: table_of(items, wanted, ITEMS), names, texts, specs, bad, Layout(keep_na=keep_na)
            )
            for malformed in bad.files:
                console.say(f"  dropped: {malformed}")
            untitled = 0
            if bad.policy == "drop":
                log, untitled = drop_untitled(log, listed.titles)
            if untitled:
                console.say(f"  dropped: {untitled} interactions with items that have no title")
            checks.notes += bad.notes
            prepared, sets, times = prepared_tables(
                name, log, listed.titles, settings, listed.texts, checks, listed.rows
            )
            say_result(prepared, settings, checks, console)
            ids = Ids.of(table_of(items, (names.item,), ITEMS).columns[names.item])
        kind = kind_of(interactions)
        source = source_of(names, Layout(keep_na=keep_na))
        return cls(prepared, sets, times, settings, checks, log, ids, names, named, source, kind)

    def __repr__(self) -> str:
        data = self.prepared
        sizes = f"{len(data.user_ids)} users, {len(data.catalog)} items, {data.interactions} interactions"
        return f"Dataset({data.name!r}, {sizes})"

    def save(self, folder: str | Path) -> Path:
        """Write it as `delrec-lite prepare` does; a recipe's ``data.folder`` can name it.

        Raises:
            StorageError: It cannot be written, or something else is there.
        """
        checks = self.checks.dump()
        save_dataset(self.prepared, self.candidates, self.settings, Path(folder), checks, self.times, self.source)
        return Path(folder)

    def histories(self, users: list[str]) -> list[list[str]]:
        """The item ids of users in the log, oldest first.

        Args:
            users: Their ids as text.

        Raises:
            UsageError: One has no interactions in the frame.
        """
        if unknown := [user for user in users if user not in self._users]:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise UsageError(
                f"user {unknown[0]!r}{more} of {len(users)} has no interactions in the data set",
                "give histories of new users: a frame of their interactions, or {user: [items, oldest first]}",
            )
        order, ends = self._in_order
        ids, items = self.log.item_ids, self.log.items
        rows = (order[ends[n] : ends[n + 1]] for n in (self._users[user] for user in users))
        return [[ids[item] for item in items[of_user].tolist()] for of_user in rows]

    @cached_property
    def _users(self) -> dict[str, int]:
        present = np.unique(self.log.users)
        return {self.log.user_ids[n]: int(n) for n in present}

    @cached_property
    def _in_order(self) -> tuple[Ints, Ints]:
        """The log's rows by user and time, and where each user's rows begin: ``[rows]``, ``[users + 1]``."""
        rows = np.arange(len(self.log))
        counts = np.bincount(self.log.users, minlength=len(self.log.user_ids))
        return np.lexsort((rows, self.log.times, self.log.users)), np.append(0, np.cumsum(counts))


def _filled(frame: Any, names: Columns) -> Table:
    """The log's columns.

    Raises:
        DataError: The frame has no rows.
    """
    table = table_of(frame, (names.user, names.item, names.time), INTERACTIONS)
    if not len(table.columns[names.user]):
        raise DataError(f"{INTERACTIONS} has no rows", "give at least three interactions of each user")
    return table


def _whole(value: Any, what: str) -> int:
    """A whole number from 0 on.

    Raises:
        UsageError: It is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise UsageError(f"{what} is {value!r}", "give a whole number that is not negative")
    return number


def _listed(names: Any, what: str) -> tuple[str, ...]:
    """Names of columns, as a tuple.

    Raises:
        UsageError: It is one text, or no list of texts.
    """
    if isinstance(names, str):
        raise UsageError(f"{what} is one text", f"give a list: [{names!r}]")
    return tuple(_text(name, f"{what}[{n}]") for n, name in enumerate(values_in(names, what, ordered=True)))


def _text(value: Any, what: str) -> str:
    """A text.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}", "give a text")
    return value


def _truth(value: Any, what: str) -> None:
    """Refuse what is no truth value: ``"no"`` would be taken for true.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{what} is {value!r}", "give True or False")
