"""Around every request: limits on its body, the key, an end when the caller has gone, one log line, one count."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Coroutine
from typing import Any

from delrec_lite.server.metrics import Metrics

LOG = logging.getLogger("delrec_lite.server")
# Titles of a thousand histories fit; nothing that does not is a request.
BODY_BYTES = 2_000_000
BODY_SECONDS = 15.0
GONE = 499  # nobody is left to read it; for the log and the counts
_OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
Refusal = tuple[int, str, str]  # status, what was wrong, what to do
_TOO_LONG: Refusal = 413, f"the body is over {BODY_BYTES} bytes", "send less at a time"
_TOO_SLOW: Refusal = 408, f"the body did not come within {BODY_SECONDS:.0f} seconds", "send it at once"


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        metrics: Counts.
        known: Paths that are counted by name; others are counted together.
        key: Asked for in ``Authorization: Bearer KEY``; None for none.
        log_bodies: Write what was asked into the log, histories and all.
    """

    def __init__(
        self, app: Any, metrics: Metrics, known: frozenset[str], key: str | None, log_bodies: bool = False
    ) -> None:
        self.app, self.metrics, self.known, self.key, self.log_bodies = app, metrics, known, key, log_bodies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse before anything is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, body = time.perf_counter(), 500, b""
        path = scope["path"]

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refused(path, dict(scope["headers"]))
            if refused is None:
                body, refused = await _whole(receive)
            if refused is not None:
                await _refuse(sending, *refused)
            elif not await _while_there(self.app(scope, _again(body, receive), sending), receive):
                status = GONE
        finally:
            seconds = time.perf_counter() - start
            self.metrics.answered(path if path in self.known else "other", status, seconds)
            line = {"method": scope["method"], "path": path[:200], "status": status, "ms": round(seconds * 1e3, 2)}
            if self.log_bodies and body:
                line["body"] = body.decode("utf-8", "replace")
            LOG.info(json.dumps(line))

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if self.key is not None and path not in _OPEN and not self._allowed(headers):
            return 401, "this server asks for a key", "send Authorization: Bearer KEY"
        return _TOO_LONG if _length(headers) > BODY_BYTES else None

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        assert self.key is not None
        return hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + self.key.encode())


def _length(headers: dict[bytes, bytes]) -> int:
    told = headers.get(b"content-length", b"0")
    return int(told) if told.isdigit() else 0


async def _whole(receive: Any) -> tuple[bytes, Refusal | None]:
    """The body, however it comes, or why it is refused."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while size <= BODY_BYTES:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if not message.get("more_body"):  # nor has a disconnect
                    break
    except TimeoutError:
        return b"", _TOO_SLOW
    return (b"", _TOO_LONG) if size > BODY_BYTES else (b"".join(parts), None)


async def _while_there(answering: Coroutine[Any, Any, None], receive: Any) -> bool:
    """Let the application answer; False, and no more work, once the caller has gone."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
            return True
        return False
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
