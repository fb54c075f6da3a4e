"""Which histories an engine still holds: a bounded table of sessions, the least recently used making room first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field


@dataclass
class Held:
    """A session's place in the engine's cache.

    Attributes:
        slot: From 0; the engine knows what lies there.
        entries: The tokens that are evaluated behind the prefix.
    """

    slot: int
    entries: list[Hashable] = field(default_factory=list)


class Sessions:
    """Not safe under threads by itself: its engine's lock guards it.

    Args:
        slots: Most sessions held at a time.
        free: Told the slot of every session that goes.
        tokens: Most that all sessions hold together; None: as many as they like.
    """

    def __init__(self, slots: int, free: Callable[[int], object], tokens: int | None = None) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._slots = list(range(slots))
        self._free = free
        self._tokens = tokens

    def take(self, name: str, tokens: int) -> Held:
        """The session of this name, with room for so many tokens; a new one is empty.

        Those not used for longest make room.
        """
        held = self._held.pop(name, None)
        while self._held and not self._fits(held, tokens):
            self.drop(next(iter(self._held)))
        self._held[name] = held = held or Held(self._slots.pop())
        return held

    def _fits(self, held: Held | None, tokens: int) -> bool:
        if held is None and not self._slots:
            return False
        return self._tokens is None or tokens + sum(len(h.entries) for h in self._held.values()) <= self._tokens

    def drop(self, name: str) -> None:
        """Forget a session, if it is there."""
        if held := self._held.pop(name, None):
            self._slots.append(held.slot)
            self._free(held.slot)

    def __len__(self) -> int:
        return len(self._held)


def common(held: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """How many of ``wanted`` need not be evaluated again: the last always is, for its answer is read."""
    same = 0
    for a, b in zip(held, wanted[:-1], strict=False):
        if a != b:
            break
        same += 1
    return same
