"""What can go wrong with a request: each error has the server's own message and hint."""

from delrec_lite.errors import DelrecError


class RequestError(DelrecError):
    """A request without an answer."""


class UnreachableError(RequestError):
    """No connection, or one that broke."""


class LateError(UnreachableError):
    """The server gave no answer in time. It may still be at work, so the request is not sent again."""


class RefusedError(RequestError):
    """The server refused the request: what is wrong and what to do, in its words.

    Attributes:
        status: Of HTTP, such as 400, 401, 422 or 504.
    """

    def __init__(self, message: str, hint: str, status: int) -> None:
        super().__init__(message, hint)
        self.status = status


class BusyError(RefusedError):
    """Too many requests: of all callers (503), or of this key (429).

    Attributes:
        retry_after: Seconds that the server asks to wait; None: it names none.
    """

    def __init__(self, message: str, hint: str, status: int, retry_after: float | None) -> None:
        super().__init__(message, hint, status)
        self.retry_after = retry_after
