"""`Pulse`: what the model's thread did last, for health and metrics."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from delrec_lite.errors import DelrecError


class Pulse:
    """Counts of one worker; its methods are called where requests begin and end.

    Attributes:
        answered: When the last answer was given, in seconds of the monotonic clock; at first, when this was made.
        failures: Internal errors since then, one after the other.
        on_begin: Called with the seconds that a request waited.
    """

    def __init__(self) -> None:
        self.answered = time.monotonic()
        self.failures = 0
        self.on_begin: Callable[[float], None] = lambda _: None

    def began(self, waited: float) -> None:
        """A request begins that waited so many seconds."""
        self.on_begin(waited)

    def ended(self, future: "Future[Any]") -> None:
        """A request has its answer or error, or its caller has gone."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.answered, self.failures = time.monotonic(), 0
        elif not isinstance(error, DelrecError):  # those are for the caller: a wrong request, a deadline
            self.failures += 1
