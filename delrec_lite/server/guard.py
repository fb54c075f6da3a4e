"""Around every request: a limit on its body, the key, one log line, one count."""

import hmac
import json
import logging
import time
from typing import Any

from delrec_lite.server.metrics import Metrics

LOG = logging.getLogger("delrec_lite.server")
# Titles of a thousand histories fit; nothing that does not is a request.
BODY_BYTES = 2_000_000
_OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        metrics: Counts.
        known: Paths that are counted by name; others are counted together.
        key: Asked for in ``Authorization: Bearer KEY``; None for none.
    """

    def __init__(self, app: Any, metrics: Metrics, known: frozenset[str], key: str | None) -> None:
        self.app, self.metrics, self.known, self.key = app, metrics, known, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse before anything is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        path = scope["path"]

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            if self.key is not None and path not in _OPEN and not self._allowed(headers):
                await _refuse(sending, 401, "this server asks for a key", "send Authorization: Bearer KEY")
            elif _length(headers) > BODY_BYTES:
                await _refuse(sending, 413, f"the body is over {BODY_BYTES} bytes", "send less at a time")
            else:
                body = await _whole(receive)
                if body is None:
                    await _refuse(sending, 413, f"the body is over {BODY_BYTES} bytes", "send less at a time")
                else:
                    await self.app(scope, _again(body, receive), sending)
        finally:
            seconds = time.perf_counter() - start
            self.metrics.answered(path if path in self.known else "other", status, seconds)
            line = {"method": scope["method"], "path": path[:200], "status": status, "ms": round(seconds * 1e3, 2)}
            LOG.info(json.dumps(line))

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        assert self.key is not None
        return hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + self.key.encode())


def _length(headers: dict[bytes, bytes]) -> int:
    told = headers.get(b"content-length", b"0")
    return int(told) if told.isdigit() else 0


async def _whole(receive: Any) -> bytes | None:
    """The body, however it comes; None if it is too long."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """A ``receive`` that gives the body once more."""
    given = False

    async def receiving() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def _refuse(send: Any, status: int, error: str, hint: str) -> None:
    body = json.dumps({"error": error, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
