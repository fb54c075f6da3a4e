"""Which histories an engine still holds: a bounded table of sessions, the least recently used making room first."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass
class Held:
    """A session's place in the engine's cache.

    Attributes:
        slot: From 0; the engine knows what lies there.
        entries: What is evaluated behind the prefix, oldest first.
    """

    slot: int
    entries: list[Hashable] = field(default_factory=list)


class Sessions:
    """Not safe under threads by itself: its engine's lock guards it.

    Args:
        slots: Most sessions held at a time.
    """

    def __init__(self, slots: int) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._free = list(range(slots))

    def take(self, name: str) -> Held:
        """The session of this name; a new one is empty, and takes the place of the one not used for longest."""
        held = self._held.pop(name, None)
        if held is None:
            slot = self._free.pop() if self._free else self._held.popitem(last=False)[1].slot
            held = Held(slot)
        self._held[name] = held
        return held

    def drop(self, name: str) -> None:
        """Forget a session, if it is there."""
        if held := self._held.pop(name, None):
            self._free.append(held.slot)

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
