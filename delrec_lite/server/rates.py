"""How many requests a caller may send: a token bucket for each, in bounded memory."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable

from delrec_lite.errors import UsageError

# Callers that are remembered; of more, those that asked longest ago are forgotten.
MOST_CALLERS = 10_000
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class RateLimit:
    """Lets each caller send requests at a rate, and some at once after a pause.

    Args:
        rate: ``20/s``, ``600/m`` or ``5000/h``.
        burst: Most requests at once; None: as many as the rate's number.
        clock: Seconds.

    Raises:
        UsageError: There is no such rate, or a burst without a request.
    """

    def __init__(self, rate: str, burst: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        match = re.fullmatch(r"([0-9]{1,9}) ?/ ?([smh])", rate.strip())
        if match is None or int(match[1]) == 0:
            raise UsageError(f"--rate is {rate!r}", "give requests in a second, minute or hour: 20/s, 600/m, 5000/h")
        if burst is not None and burst < 1:
            raise UsageError(f"--burst is {burst}", "give at least 1")
        self._per_second = int(match[1]) / _SECONDS[match[2]]
        self._burst = float(burst or int(match[1]))
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def wait(self, caller: str) -> float:
        """Take a token for a request: 0, or the seconds until there is one, and none is taken."""
        now = self._clock()
        left, at = self._buckets.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_second)
        granted = left >= 1
        self._buckets[caller] = (left - 1 if granted else left, now)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._per_second

    def __len__(self) -> int:
        return len(self._buckets)
