"""What was changed about the availability of items while a server runs; a file keeps it over a restart."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.files import check_file, identity_of, write_atomic
from delrec_lite.locks import sole_lock
from delrec_lite.runtime.availability import Availability, Change

LOG = logging.getLogger("delrec_lite.server")
SCHEMA = 1
_KEY = "delrec_availability"
# Ids that a line of the log names.
_NAMED = 20


class AvailabilityState:
    """Changes of availability by item id. Safe under threads; several processes may share one file.

    Args:
        file: Where they are kept; None: in memory alone.

    Raises:
        StorageError: Something else is there, it cannot be read, or it has no folder.
    """

    def __init__(self, file: Path | None = None) -> None:
        if file is not None and not file.resolve().parent.is_dir():
            raise StorageError(f"there is no folder for {file}", "make it, or choose another --state")
        self._file = None if file is None else check_file(file, "state of availability", (_KEY,))
        self._lock = threading.Lock()
        self._others: Sequence[Callable[[], Availability]] = ()
        self._changes: dict[str, bool] = {}
        self._read: tuple[int, int, int] | None = None  # what the file was when it was last read
        self._refresh()

    @property
    def kept(self) -> bool:
        """Whether a restart keeps the changes."""
        return self._file is not None

    def follow(self, others: Sequence[Callable[[], Availability]]) -> None:
        """Apply every change to these too: each gives the availability of a model that is served."""
        self._others = others

    def vanished(self, availability: Availability) -> list[str]:
        """Ids that were changed and that a catalogue does not have."""
        with self._lock:
            return [item for item in self._changes if availability.lacks(item)]

    def change(
        self,
        current: Callable[[], Availability],
        available: Sequence[str] = (),
        unavailable: Sequence[str] = (),
        refuse: bool = False,
    ) -> Change:
        """Change the availability of items, in the file first.

        Args:
            current: Gives the availability of the catalogue that is served.
            available: Ids, ``id:<item id>`` or whole titles.
            unavailable: The same.
            refuse: Refuse the change where something names no item.

        Raises:
            UsageError: An item in both lists; with ``refuse``: an unknown one. Nothing is changed.
            StorageError: The file cannot be written. Nothing is changed.
        """
        try:
            with self._lock, self._alone():
                availability = current()  # under the lock: a reload may have replaced it meanwhile
                changes, skipped = availability.named(available, unavailable)
                if skipped and refuse:
                    hint = "give an id, id:<item id> or the whole title"
                    raise UsageError(f"{skipped[0].where}: {skipped[0].reason}", hint)
                self._refresh()
                merged = self._changes | changes
                if merged != self._changes or self._read is None:  # or the file was taken away
                    self._write(merged)
                    self._changes = merged
                for other in self._others:
                    if (served := other()) is not availability:  # which is counted below
                        served.apply(merged)
                return Change(availability.apply(merged), skipped)
        except OSError as error:  # of the file, or of the lock beside it
            raise StorageError(
                f"the change cannot be kept: {self._file}: {error.strerror or error}",
                "free some space, then send it again; nothing was changed",
            ) from error

    def refresh(self, availability: Availability) -> None:
        """Apply what another process wrote to the file; does nothing where it did not."""
        if self._file is None or identity_of(self._file) == self._read:
            return
        if not self._lock.acquire(blocking=False):  # a change or a reload is going on: the next request sees it
            return
        try:
            if self._refresh():
                for served in (availability, *(other() for other in self._others)):
                    served.apply(self._changes)
        except StorageError as error:
            LOG.warning(json.dumps({"warning": error.message, "hint": error.hint}))
        finally:
            self._lock.release()

    @contextmanager
    def carried_to(self, newer: Availability) -> Iterator[None]:
        """Apply all changes to the catalogue of a newer bundle; nothing changes until it has taken the old one's place.

        The log names ids that it does not have; they count again when they come back.
        """
        with self._lock:
            newer.apply(self._changes)
            yield
        if vanished := self.vanished(newer):
            warning = f"{len(vanished)} items whose availability was changed are not in this bundle"
            LOG.warning(json.dumps({"warning": warning, "ids": vanished[:_NAMED]}))

    def _alone(self) -> AbstractContextManager[bool]:
        """No other process writes the file meanwhile."""
        return nullcontext(True) if self._file is None else sole_lock(self._file.with_name(f".{self._file.name}.lock"))

    def _refresh(self) -> bool:
        """Read the file if it is another one than before; whether it was."""
        if self._file is None or (facts := identity_of(self._file)) == self._read:
            return False
        self._read = facts
        if facts is None or not facts[1]:  # removed, or empty as a file that was made for it
            return False
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            lists = [content["available"], content["unavailable"]]
            if content[_KEY] != SCHEMA or not all(isinstance(item, str) for ids in lists for item in ids):
                raise ValueError("it is of another schema, or holds no ids")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(f"{self._file} cannot be read: {error}", "repair it or move it away") from error
        self._changes = {**dict.fromkeys(lists[0], True), **dict.fromkeys(lists[1], False)}
        return True

    def _write(self, changes: dict[str, bool]) -> None:
        if self._file is None:
            return
        lists = {name: sorted(i for i, is_in in changes.items() if is_in is which) for name, which in _LISTS}
        write_atomic(self._file, json.dumps({_KEY: SCHEMA, **lists}, ensure_ascii=False) + "\n")
        self._read = identity_of(self._file)


_LISTS = (("available", True), ("unavailable", False))
