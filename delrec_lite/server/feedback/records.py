"""What is logged: a served list, and an event that followed it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

ACCEPTED, DUPLICATE = "accepted", "duplicate"
UNKNOWN_REQUEST = "no served list has this request id"
NOT_SERVED = "this item was not in the list"


@dataclass(frozen=True)
class Served:
    """One list that was served.

    Attributes:
        time: Seconds since 1970, by the clock of the machine.
        request: The request's id; a list with the same id replaces the earlier one, as a retry does.
        who: ``user:KEY`` as the caller gave it, ``session:HASH``, or None.
        bundle: Name and version, ``shop@1f2e3d4c5b6a``.
        catalogue: Items that the bundle can recommend; None where that is not known.
        arm: ``A``, or ``B`` where another bundle shares the traffic.
        basis: What ranked: ``model`` or ``popularity``.
        items: Ids and scores, best first.
        history: The titles of the request; None unless they are to be logged.
    """

    time: float
    request: str
    who: str | None
    bundle: str
    catalogue: int | None
    arm: str
    basis: str
    items: Sequence[tuple[str, float]] = field(repr=False)
    history: Sequence[str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Event:
    """What a person did with an item of a served list.

    Attributes:
        request: Id of the request that the list answered.
        item: Its id in the answer; its title where it had no id.
        event: ``click``, ``purchase`` or another word.
        value: Such as a price.
        time: Seconds since 1970.
    """

    request: str
    item: str
    event: str
    value: float | None
    time: float
