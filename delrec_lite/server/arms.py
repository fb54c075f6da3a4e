"""Which bundle answers: the served one (A), or the one that it is compared with (B) for a share of the callers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from delrec_lite.server.worker import Worker
from delrec_lite.server.workers import Workers


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: ``A`` or ``B``.
        worker: Owns its model, or its copies.
    """

    name: str
    worker: Worker | Workers


class Arms:
    """One bundle, or two that share the traffic.

    Args:
        worker: Of the served bundle.
        other: Of the one that it is compared with.
        share: Of the callers who get the other one, from 0 to 1.
        salt: Names the comparison: with another one, other callers are chosen.
    """

    def __init__(
        self, worker: Worker | Workers, other: Worker | Workers | None = None, share: float = 0.0, salt: str = ""
    ) -> None:
        self.first = Arm("A", worker)
        self._other = None if other is None else Arm("B", other)
        self._share, self._salt = share, salt

    def __iter__(self) -> Iterator[Arm]:
        yield self.first
        if self._other is not None:
            yield self._other

    def of(self, unit: str) -> Arm:
        """The side of a user, session or request: always the same one, in every process, for the same name."""
        if self._other is None:
            return self.first
        digest = hashlib.sha256(f"{self._salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
        return self._other if int.from_bytes(digest[:8]) < self._share * 2**64 else self.first

    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(arm.worker.waiting() for arm in self)

    def close(self) -> None:
        """Answer the queued requests, then free the models."""
        for arm in self:
            arm.worker.close()
