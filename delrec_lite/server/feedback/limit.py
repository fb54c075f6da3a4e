"""How large the feedback log may become."""

import re
from dataclasses import dataclass

from delrec_lite.errors import UsageError
from delrec_lite.machine import unit_bytes

_UNITS = {"KB", "MB", "GB", "TB", "KIB", "MIB", "GIB", "TIB"}
LEAST_BYTES, LEAST_ROWS = 1_000_000, 10
# Of the bytes, the share of the database file; the rest is for what SQLite has not moved into it yet.
_SHARE = 0.8


@dataclass(frozen=True)
class Limit:
    """The largest log: by bytes on disk, or by rows (lists and events together).

    Attributes:
        bytes: None where rows are limited.
        rows: None where bytes are limited.
    """

    bytes: int | None = 10**9
    rows: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """The limit of ``1GB``, ``500 MiB``, ``200000 rows`` or ``200000``, which means rows.

        Raises:
            UsageError: It is none of these, or too small.
        """
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,3})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
        hint = f"give at least 1MB or {LEAST_ROWS} rows, such as 1GB or 200000rows"
        unit = match[2].upper() if match else ""
        if match is None or (unit not in {"", "ROW", "ROWS"} and unit not in _UNITS):
            raise UsageError(f"the feedback limit is {text!r}", hint)
        if unit in _UNITS:
            limit = cls(int(float(match[1]) * unit_bytes(unit)), None)
        elif "." in match[1]:
            raise UsageError(f"the feedback limit is {text!r}", hint)
        else:
            limit = cls(None, int(match[1]))
        if (limit.bytes or LEAST_BYTES) < LEAST_BYTES or (
            LEAST_ROWS if limit.rows is None else limit.rows
        ) < LEAST_ROWS:
            raise UsageError(f"the feedback limit is {text!r}", hint)
        return limit

    def pages(self, page: int) -> int:
        """The most pages of ``page`` bytes that the database file may have; 0: no limit."""
        return int(self.bytes * _SHARE) // page if self.bytes else 0

    @property
    def unmoved(self) -> int | None:
        """Most bytes that may wait beside the database file (its WAL)."""
        return int(self.bytes * (1 - _SHARE)) if self.bytes else None
