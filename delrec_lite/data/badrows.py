"""Malformed rows: counted, the first few reported with their reasons, then refused or dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from delrec_lite.errors import DataError, UsageError, did_you_mean

Policy = Literal["refuse", "drop"]
SHOWN = 5


@dataclass(frozen=True)
class Malformed:
    """The malformed rows of one file.

    Attributes:
        path: The file.
        count: How many there are.
        first: Row number and reason of the first few; the header is row 1 where there is one.
    """

    path: Path
    count: int
    first: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        shown = "; ".join(f"row {row}: {reason}" for row, reason in self.first)
        more = f"; {self.count} malformed rows in all" if self.count > len(self.first) else ""
        return f"{self.path}, {shown}{more}"

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": str(self.path), "malformed": self.count, "first": [list(pair) for pair in self.first]}


@dataclass
class BadRows:
    """Collects the malformed rows that readers find.

    Attributes:
        policy: ``refuse`` raises an error that names the rows, ``drop`` leaves them out.
        files: The dropped rows of each file.
        notes: What readers found odd in rows that they read, a sentence each.
    """

    policy: Policy = "refuse"
    files: list[Malformed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, count: int, examples: Sequence[tuple[int, str]], words: bool = False) -> None:
        """Add the malformed rows of a file.

        Args:
            path: The file.
            count: How many rows are malformed.
            examples: Row number and reason of at least the first few, in any order.
            words: Some are malformed for a word that means a missing value, such as NULL.

        Raises:
            DataError: ``count`` is not 0 and the policy is ``refuse``.
        """
        if not count:
            return
        malformed = Malformed(path, count, tuple(sorted(examples)[:SHOWN]))
        if self.policy == "refuse":
            hint = "correct them, or leave them out with --on-bad-row drop"
            raise DataError(str(malformed), f"{hint}; --keep-na takes words such as NULL as names" if words else hint)
        self.files.append(malformed)

    def skip(self, path: Path, count: int) -> None:
        """Note the rows of a file that are blank in every column that counts."""
        if count:
            self.notes.append(f"{path}: {count} blank rows skipped")


def parse_policy(text: str, name: str = "--on-bad-row") -> Policy:
    """Read ``refuse`` or ``drop``; ``name`` is the option's.

    Raises:
        UsageError: Anything else.
    """
    if text not in get_args(Policy):
        raise UsageError(f"{name} has no value {text!r}", did_you_mean(str(text), get_args(Policy)))
    return text  # type: ignore[return-value]
