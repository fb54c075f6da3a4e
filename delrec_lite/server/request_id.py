"""The id of a request: the client's own where it sends one that is safe to log, else a new one.

It names the answer: it is in the answer's header ``X-Request-Id``, in the log line and in the answers of
``/v1/recommend`` and ``/v1/batch``. Nothing is remembered by it: to ask again with the same id computes the same answer
again, because a request for recommendations changes nothing.
"""

import re
import uuid
from collections.abc import Mapping

HEADER = "X-Request-Id"
_SAFE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:@/+=\-]{0,127}")


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The id of a request with these headers, whose names are in small letters.

    One of other characters than letters, digits and ``._:@/+=-``, or of more than 128, is replaced by a new one.
    """
    given = headers.get(HEADER.lower().encode(), b"")
    return given.decode() if _SAFE.fullmatch(given) else uuid.uuid4().hex
