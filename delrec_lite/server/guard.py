"""Middleware for every request: key, id, limits on the body, stop when the client disconnects, log, metrics, trace."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Coroutine
from typing import Any

from delrec_lite.server.metrics import Metrics
from delrec_lite.server.request_id import HEADER, request_id
from delrec_lite.server.tracing import Traces

LOG = logging.getLogger("delrec_lite.server")
# The titles of a thousand histories fit.
BODY_BYTES = 2_000_000
BODY_SECONDS = 15.0
CLIENT_CLOSED = 499  # nobody reads the answer; the status is for the log and the metrics
# Needed before a key can be asked for, or by monitoring that has none. The metrics tell how much is sold: they need it.
WITHOUT_KEY = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
Refusal = tuple[int, str, str]  # status, error, hint
_TOO_LONG: Refusal = 413, f"the body is over {BODY_BYTES} bytes", "send smaller requests"
_TOO_SLOW: Refusal = 408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds", "send it without pauses"


class Guard:
    """ASGI middleware.

    Args:
        app: The guarded application.
        metrics: Counts the requests.
        route_paths: Paths that are counted by name; all others are counted together.
        key: Required in ``Authorization: Bearer KEY``; None: no key is required.
        log_bodies: Log the bodies of requests, histories included.
        root_path: Prefix of all paths behind a proxy, which may have removed it or not.
        traces: Get a span for each request.
    """

    def __init__(
        self,
        app: Any,
        metrics: Metrics,
        route_paths: frozenset[str],
        key: str | None,
        log_bodies: bool = False,
        root_path: str = "",
        traces: Traces | None = None,
    ) -> None:
        self.app, self.metrics, self.route_paths = app, metrics, route_paths
        self.key, self.log_bodies, self.root_path = key, log_bodies, root_path
        self.traces = traces or Traces()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id(headers)  # the handler of internal errors sees it too
        scope = {**scope, "root_path": self.root_path}
        path = _below(scope["path"], self.root_path)
        name = path if path in self.route_paths else "other"
        with self.traces.request(scope["method"], name, headers) as attributes:
            await self._answer(scope, receive, send, path, headers, attributes)

    async def _answer(
        self, scope: Any, receive: Any, send: Any, path: str, headers: dict[bytes, bytes], attributes: dict[str, Any]
    ) -> None:
        start, status, body = time.perf_counter(), 500, b""
        identity = scope["state"]["request_id"]

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER.lower().encode(), identity.encode())]}
            await send(message)

        try:
            refused = self._refused(path, headers)
            if refused is None:
                body, refused = await _read_body(receive)
            if refused is not None:
                await _refuse(sending, *refused)
            elif not await _run_until_disconnect(self.app(scope, _replay(body, receive), sending), receive):
                status = CLIENT_CLOSED
        finally:
            seconds = time.perf_counter() - start
            self.metrics.answered(path if path in self.route_paths else "other", status, seconds)
            line = {"id": identity, "method": scope["method"], "path": path[:200], "status": status}
            line["ms"] = round(seconds * 1e3, 2)
            attributes |= {"http.response.status_code": status, "delrec.request_id": identity}
            if self.log_bodies and body:
                line["body"] = body.decode("utf-8", "replace")
            LOG.info(json.dumps(line))

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if self.key is not None and path not in WITHOUT_KEY and not self._allowed(headers):
            return 401, "this server requires a key", "send Authorization: Bearer KEY"
        return _TOO_LONG if _length(headers) > BODY_BYTES else None

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        assert self.key is not None
        return hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + self.key.encode())


def _below(path: str, root: str) -> str:
    """The path that the application routes, without the prefix that a proxy left in it."""
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def _length(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _read_body(receive: Any) -> tuple[bytes, Refusal | None]:
    """The whole body, or why it is refused."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while size <= BODY_BYTES:
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if not message.get("more_body"):  # a disconnect has no such key either
                    break
    except TimeoutError:
        return b"", _TOO_SLOW
    return (b"", _TOO_LONG) if size > BODY_BYTES else (b"".join(parts), None)


async def _run_until_disconnect(answering: Coroutine[Any, Any, None], receive: Any) -> bool:
    """Let the application answer; cancel it and return False when the client disconnects."""
    answer = asyncio.ensure_future(answering)
    disconnect = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({answer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
            return True
        return False
    finally:
        for task in (answer, disconnect):
            task.cancel()
        await asyncio.gather(answer, disconnect, return_exceptions=True)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(body: bytes, receive: Any) -> Any:
    """A ``receive`` that returns the body that was already read."""
    replayed = False

    async def receiving() -> Any:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def _refuse(send: Any, status: int, error: str, hint: str) -> None:
    body = json.dumps({"error": error, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
