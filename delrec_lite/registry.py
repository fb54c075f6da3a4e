"""Records by name: those that come with the package, those that a program registers, those that others install."""

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from delrec_lite.errors import DelrecError, UsageError


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str:
        """Tells it from others."""


Record = TypeVar("Record", bound=Named)


class Registry(Generic[Record]):
    """Records of one kind.

    A package adds one without being imported by an entry point of the group: its name is the record's, its value names
    the record.

    Args:
        what: What a record is, in errors: ``engine``.
        kind: Class of the records.
        group: Of entry points.
        built_in: Those that come with this package; their names cannot be taken.
    """

    def __init__(self, what: str, kind: type[Record], group: str, built_in: Iterable[Record]) -> None:
        self._what, self._kind, self._group = what, kind, group
        self._records = {record.name: record for record in built_in}
        self.built_in = tuple(self._records)

    def register(self, record: Record) -> Record:
        """Make a record known to this process; one that was registered under its name is replaced.

        Raises:
            UsageError: One that comes with this package has its name.
        """
        if record.name in self.built_in:
            raise UsageError(
                f"the {self._what} {record.name!r} comes with delrec-lite", "register yours under another name"
            )
        self._records[record.name] = record
        return record

    def unregister(self, name: str) -> None:
        """Forget a record that was registered; one that is not there is no error."""
        if name not in self.built_in:
            self._records.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """Of all records, the built-in ones first; loads none."""
        return tuple(dict.fromkeys([*self._records, *self._installed()]))

    def __getitem__(self, name: str) -> Record:
        """The record of a name.

        Raises:
            UsageError: There is none, or the package that names it does not deliver it.
        """
        if name not in self._records:
            entry = self._installed().get(name)
            if entry is None:
                raise UsageError(f"no {self._what} {name!r}", f"one of {', '.join(self.names())}")
            self._records[name] = self._loaded(entry)
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records or name in self._installed()

    def __iter__(self) -> Iterator[Record]:
        """Every record; what is installed elsewhere is loaded when its turn comes."""
        return (self[name] for name in self.names())

    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._group)}

    def _loaded(self, entry: EntryPoint) -> Record:
        source = f"{self._what} {entry.name!r}, which {entry.dist.name if entry.dist else entry.value} installs"
        try:
            record = entry.load()
        except DelrecError:
            raise
        except Exception as error:  # whatever the import of another's package raises
            raise UsageError(f"the {source}, does not load: {error}", "repair or remove that package") from error
        if not isinstance(record, self._kind) or record.name != entry.name:
            raise UsageError(
                f"the {source}: {entry.value} is no {self._kind.__name__} of that name", "repair or remove that package"
            )
        return record
