"""The sessions whose history an engine keeps: a table of bounded size; the least recently used is dropped first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from delrec_lite.runtime.prompting.encoder import Token


def token_key(token: Token) -> Hashable:
    """A key that is equal for equal tokens, vectors included."""
    return token if isinstance(token, int) else token.tobytes()


def keys_of(tokens: Sequence[Token]) -> list[Hashable]:
    """``token_key`` of several tokens."""
    return [token_key(token) for token in tokens]


@dataclass
class CachedSession:
    """A session's place in the engine's cache.

    Attributes:
        slot: From 0; the engine knows what is stored there.
        entries: Keys of the tokens that are evaluated behind the prefix.
    """

    slot: int
    entries: list[Hashable] = field(default_factory=list)


class Sessions:
    """Not safe under threads by itself: the engine's lock guards it.

    Args:
        slots: Most sessions at a time.
        free: Called with the slot of every session that is dropped.
        tokens: Most tokens of all sessions together; None: no limit.
    """

    def __init__(self, slots: int, free: Callable[[int], object], tokens: int | None = None) -> None:
        self._cached: OrderedDict[str, CachedSession] = OrderedDict()
        self._slots = list(range(slots))
        self._free = free
        self._tokens = tokens

    def take(self, name: str, tokens: int) -> CachedSession:
        """The session of this name, with room for so many tokens; a new one is empty.

        The least recently used sessions are dropped where there is no room.
        """
        session = self._cached.pop(name, None)
        while self._cached and not self._fits(session, tokens):
            self.drop(next(iter(self._cached)))
        self._cached[name] = session = session or CachedSession(self._slots.pop())
        return session

    def take_together(self, wanted: Sequence[tuple[str, Sequence[Hashable]]]) -> list[tuple[CachedSession, int]]:
        """The sessions of several requests at once, none of which makes room for another.

        Args:
            wanted: Different names, each with the keys of its request; not more than there are slots, and not more keys
                than there may be tokens.

        Returns:
            Each session, which already holds its request's keys, and how many of them need no evaluation.
        """
        for name, keys in wanted:
            if session := self._cached.get(name):
                session.entries = session.entries[: count_shared(session.entries, keys)]
                self._cached.move_to_end(name)
        taken = []
        for name, keys in wanted:
            session = self.take(name, len(keys))
            taken.append((session, len(session.entries)))
            session.entries = list(keys)
        return taken

    def can_hold(self, tokens: int) -> bool:
        """Whether sessions of so many tokens together can be kept at all."""
        return self._tokens is None or tokens <= self._tokens

    def count_new(self, name: str, keys: Sequence[Hashable]) -> int:
        """How many of a request's keys its session does not hold."""
        session = self._cached.get(name)
        return len(keys) - (count_shared(session.entries, keys) if session else 0)

    def _fits(self, session: CachedSession | None, tokens: int) -> bool:
        if session is None and not self._slots:
            return False
        used = sum(len(cached.entries) for cached in self._cached.values())
        return self._tokens is None or tokens + used <= self._tokens

    def drop(self, name: str) -> None:
        """Forget a session, if it is there."""
        if session := self._cached.pop(name, None):
            self._slots.append(session.slot)
            self._free(session.slot)

    def __len__(self) -> int:
        return len(self._cached)


def count_shared(cached: Sequence[Hashable], request: Sequence[Hashable]) -> int:
    """How many entries of ``request`` need no evaluation; its last one always does, because its logits are read."""
    shared = 0
    for cached_entry, entry in zip(cached, request[:-1], strict=False):
        if cached_entry != entry:
            break
        shared += 1
    return shared
