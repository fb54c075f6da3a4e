"""The id of a request: of the header `X-Request-Id`, or a new one."""

import re
import uuid
from collections.abc import Mapping

HEADER = "X-Request-Id"
_USABLE = re.compile(rb"[!-~]{1,128}")


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The id that a caller gave, if it is 1 to 128 printable ASCII characters without spaces; else a random one.

    Args:
        headers: Of the request, by names in lower case, as ASGI has them.
    """
    given = headers.get(HEADER.lower().encode(), b"").strip()
    return given.decode("ascii") if _USABLE.fullmatch(given) else uuid.uuid4().hex
