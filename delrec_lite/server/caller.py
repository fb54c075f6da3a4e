"""Who asks, as far as the feedback log and the choice between two bundles need to know."""

import hashlib
from dataclasses import dataclass

from fastapi import Request

# A pseudonym that the caller gives to a user, over several sessions.
USER_HEADER = "X-User-Key"
MOST_CHARACTERS = 128


@dataclass(frozen=True)
class Caller:
    """The origin of a request.

    Attributes:
        request: The request's id.
        who: ``user:KEY`` as given in ``X-User-Key``, else ``session:HASH``, else None.
    """

    request: str
    who: str | None

    @property
    def unit(self) -> str:
        """What always gets the same bundle: a user, else a session, else the request alone."""
        return self.who or f"request:{self.request}"


def caller_of(request: Request, session: str | None = None) -> Caller:
    """The caller of a request.

    Args:
        request: With the id that ``Guard`` gave it.
        session: Named in its body; only its hash is kept.
    """
    user = request.headers.get(USER_HEADER, "").strip()[:MOST_CHARACTERS]
    who = f"user:{user}" if user else None if session is None else f"session:{_hash(session)}"
    return Caller(str(getattr(request.state, "request_id", "")), who)


def _hash(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:16]
