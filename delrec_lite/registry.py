"""Registries of records by name: built in, registered by a program, or provided by an installed package."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from delrec_lite.errors import DelrecError, UsageError, did_you_mean


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """Its name in recipes, bundles and the command line."""


Record = TypeVar("Record", bound=Named)


class Registry(Generic[Record]):
    """Records of one kind; ``registry["name"]`` returns one, and imports it if necessary.

    An installed package adds a record by an entry point of the group, with the record's name, whose value refers to
    the record.

    Args:
        what: What a record is, for error messages: ``engine``.
        kind: Class of the records.
        group: Group of entry points.
        built_in: The records of delrec-lite; or a package with one module per record, named as the record (``_`` for
            ``-``), whose ``KIND`` is the record: then a record is imported when it is first used.
        error: Raised for a name that is unknown or in use.
    """

    def __init__(
        self,
        what: str,
        kind: type[Any],
        group: str,
        built_in: Iterable[Record] | str,
        error: type[DelrecError] = UsageError,
    ) -> None:
        self.what, self.kind, self._group, self._error = what, kind, group, error
        self._modules: dict[str, str] = {}
        self._records: dict[str, Record] = {}
        if isinstance(built_in, str):
            folder = importlib.import_module(built_in).__path__
            names = (module.name for module in pkgutil.iter_modules(folder))
            self._modules = {name.replace("_", "-"): f"{built_in}.{name}" for name in names}
        else:
            self._records = {record.name: record for record in built_in}
        self.built_in = (*self._records, *self._modules)

    def register(self, record: Record) -> Record:
        """Register a record in this process; it replaces one that was registered under the same name.

        Raises:
            DelrecError: A built-in record has this name.
        """
        if record.name in self.built_in:
            raise self._error(
                f"{self.what} {record.name!r} comes with delrec-lite", "register yours under another name"
            )
        self._records[record.name] = record
        return record

    def unregister(self, name: str) -> None:
        """Remove a registered record; an unknown name is no error."""
        if name not in self.built_in:
            self._records.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """Names of all records, built-in ones first; imports none."""
        return tuple(dict.fromkeys([*self.built_in, *self._records, *self._installed()]))

    def __getitem__(self, name: str) -> Record:
        """The record of this name.

        Raises:
            DelrecError: There is none, or the package that provides it cannot be loaded.
        """
        if name not in self._records:
            if name in self._modules:
                self._records[name] = importlib.import_module(self._modules[name]).KIND
            elif (entry := self._installed().get(name)) is not None:
                self._records[name] = self._loaded(entry)
            else:
                raise self._error(f"no {self.what} {name!r}", did_you_mean(name, self.names()))
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[Record]:
        """All records, each loaded when the iterator reaches it."""
        return (self[name] for name in self.names())

    def check(self, name: str) -> str:
        """The name itself, if it exists; validates a field of a recipe.

        Raises:
            ValueError: Unknown name; lists all names.
        """
        try:
            return self[name].name
        except DelrecError as error:
            raise ValueError(f"{error.message}: {error.hint}") from error

    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._group)}

    def _loaded(self, entry: EntryPoint) -> Record:
        package = entry.dist.name if entry.dist else entry.value
        try:
            record: Record = entry.load()
        except Exception as error:  # the import of another package may raise anything
            raise self._error(
                f"{self.what} {entry.name!r} of {package} cannot be loaded: {error}", "repair or remove that package"
            ) from error
        if not isinstance(record, self.kind) or record.name != entry.name:
            raise self._error(
                f"{self.what} {entry.name!r} of {package}: {entry.value} is not its record",
                f"the entry point must refer to a {self.kind.__name__} with the name {entry.name!r}",
            )
        return record
