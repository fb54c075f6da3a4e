"""HTTP, the same for both clients: the settings of a connection, a call as a request, a response as answer or error."""

import json
import math
import operator
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from delrec_lite.client.answers import Answer, read
from delrec_lite.client.calls import Call
from delrec_lite.client.failures import BusyError, LateError, RefusedError, UnreachableError
from delrec_lite.errors import MissingPackageError, UsageError, install_line
from delrec_lite.version import __version__

try:
    import httpx2 as httpx2  # both clients take it from here
except ImportError as error:
    raise MissingPackageError("the client needs httpx2, which is not installed", install_line("httpx2")) from error

# Of a session's header, as the server takes it.
_MOST_CHARACTERS = 128


def connection(address: str, key: str | None, timeout: float, transport: Any) -> dict[str, Any]:
    """Arguments of an HTTP client.

    Raises:
        UsageError: The address is not one, or the key cannot be sent.
    """
    try:
        url = httpx2.URL(address)
    except (httpx2.InvalidURL, TypeError):
        url = httpx2.URL()
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
        raise UsageError(f"the server's address is {address!r}", "give it with scheme, such as http://127.0.0.1:8080")
    if key is not None and (not key.strip() or not key.isprintable()):
        raise UsageError("the key is empty or has characters that no header can hold", "give the server's key")
    headers = [(b"user-agent", f"delrec-lite/{__version__}".encode())]
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    return {"base_url": url, "headers": headers, "timeout": timeout, "transport": transport}


def request(call: Call[Any]) -> dict[str, Any]:
    """Arguments of one request.

    Raises:
        UsageError: Its fields cannot be written as JSON.
    """
    arguments = {"method": call.method, "url": call.path, "params": call.query}
    if call.body is None:
        return arguments
    try:
        body = json.dumps(call.body, default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the request cannot be sent: {error}", "give texts, whole numbers and lists") from error
    headers = {"Content-Type": "application/json"}
    if isinstance(session := call.body.get("session"), str):
        # A proxy before several servers chooses by it; the server itself reads the body's.
        headers["X-Session"] = quote(session.encode("utf-8", "replace"), safe="")[:_MOST_CHARACTERS]
    return {**arguments, "content": body, "headers": headers}


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if hasattr(value, "item") else operator.index(value)


def unreachable(error: httpx2.RequestError, address: str) -> UnreachableError:
    """The error for a connection that failed."""
    if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout):
        return LateError(f"{address} gave no answer in time", "give the client more time, or send a smaller request")
    reason = str(error) or type(error).__name__
    return UnreachableError(f"{address} cannot be reached: {reason}", "check the address and that it runs")


def answer(call: Call[Answer], response: httpx2.Response) -> Answer:
    """What the server answered.

    Raises:
        BusyError: Too many requests.
        RefusedError: Any other status, or an answer that is not this server's.
    """
    status = response.status_code
    try:
        told = response.json()
        if response.is_success:
            return read(call.answer, told)
        message, hint = str(told["error"]), str(told["hint"])
    except (ValueError, KeyError, TypeError) as error:  # of a proxy, or of another program
        message = f"the answer to {call.method} /{call.path} has status {status} and is not delrec-lite's"
        hint = f"check the address ({error})" if response.is_success else "check the address and what is before it"
    if status in (429, 503):
        raise BusyError(message, hint, status, _retry_after(response.headers.get("retry-after")))
    raise RefusedError(message, hint, status)


def _retry_after(value: str | None) -> float | None:
    """Seconds from now, of a number of seconds or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
