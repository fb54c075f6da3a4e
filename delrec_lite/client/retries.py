"""When a request is sent again, and after how many seconds."""

import random
from dataclasses import dataclass

from delrec_lite.client.failures import BusyError, LateError, RequestError, UnreachableError
from delrec_lite.errors import UsageError


@dataclass(frozen=True)
class Retries:
    """Requests are sent again when the server is busy (503, 429) or cannot be reached.

    Attributes:
        attempts: Most times that a request is sent; 1: never again.
        first: Seconds before the second attempt, where the server names none; they double with every attempt.
        longest: Most seconds before an attempt. A server that asks to wait longer is not asked again.
    """

    attempts: int = 4
    first: float = 0.25
    longest: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first <= self.longest:
            raise UsageError(f"no such way to send requests again: {self}", "attempts from 1 on, 0 <= first <= longest")

    def wait(self, attempt: int, error: RequestError) -> float | None:
        """Seconds to wait after an attempt failed; None: do not send it again.

        Args:
            attempt: 1 for the first.
            error: Why it failed.
        """
        if attempt >= self.attempts:
            return None
        # Clients that were refused together do not come back together.
        pause = min(self.longest, self.first * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if isinstance(error, UnreachableError):
            return None if isinstance(error, LateError) else pause
        if not isinstance(error, BusyError):
            return None
        if error.retry_after is None:
            return pause
        return None if error.retry_after > self.longest else max(error.retry_after, pause)
