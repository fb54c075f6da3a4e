"""A registry: records by name, which come with the package, are registered by a program, or by an installed package."""

import importlib
import pkgutil
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from delrec_lite.errors import ConfigError


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""


Record = TypeVar("Record", bound=Named)


class Registry(Generic[Record]):
    """Records of one sort, found by name and imported when asked for.

    Args:
        what: What a record is, for errors.
        record: Its class.
        package: Of the built-in ones: a module each, named as the record (``_`` for ``-``), whose ``KIND`` it is. Also
            the entry-point group in which an installed package names a record of its own.
    """

    def __init__(self, what: str, record: type[Any], package: str) -> None:
        self.what, self._record, self._package = what, record, package
        self._records: dict[str, Record] = {}

    @cached_property
    def built_in(self) -> frozenset[str]:
        """Names of those that come with the package; none of them is imported."""
        folder = importlib.import_module(self._package).__path__
        return frozenset(module.name.replace("_", "-") for module in pkgutil.iter_modules(folder))

    def register(self, record: Record) -> Record:
        """Make a record known to this process; one of the same name that was registered before is replaced.

        Raises:
            ConfigError: A built-in one has this name.
        """
        if record.name in self.built_in:
            raise ConfigError(
                f"{self.what} {record.name!r} comes with delrec-lite", "register yours under another name"
            )
        self._records[record.name] = record
        return record

    def names(self) -> tuple[str, ...]:
        """Names of all that are known, sorted."""
        return tuple(sorted({*self.built_in, *self._records, *self._installed()}))

    def get(self, name: str) -> Record:
        """The record of this name.

        Raises:
            ConfigError: There is none, or the package that names it does not deliver it.
        """
        if name not in self._records:
            if name in self.built_in:
                module = f"{self._package}.{name.replace('-', '_')}"
                self._records[name] = importlib.import_module(module).KIND
            elif (entry := self._installed().get(name)) is not None:
                self._records[name] = self._loaded(entry)
            else:
                raise ConfigError(f"no {self.what} {name!r}", f"one of {', '.join(self.names())}")
        return self._records[name]

    def check(self, name: str) -> str:
        """The name itself, if it is known: for a recipe's field.

        Raises:
            ValueError: It is not; lists all that are.
        """
        try:
            return self.get(name).name
        except ConfigError as error:
            raise ValueError(f"{error.message}: {error.hint}") from error

    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._package)}

    def _loaded(self, entry: EntryPoint) -> Record:
        try:
            record = entry.load()
        except Exception as error:  # whatever a foreign package's import raises
            raise ConfigError(
                f"{self.what} {entry.name!r} does not load: {error}", f"mend the package that holds {entry.value}"
            ) from error
        if not isinstance(record, self._record) or getattr(record, "name", None) != entry.name:
            raise ConfigError(
                f"{self.what} {entry.name!r}: {entry.value} is not its record",
                f"the entry point names a {self._record.__name__} whose name is {entry.name!r}",
            )
        loaded: Record = record
        return loaded
