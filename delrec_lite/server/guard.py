"""Middleware for every request: id, key, limits on rate and body, stop on disconnection, log, metrics, trace."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from delrec_lite.server.keys import Keys
from delrec_lite.server.metrics import Metrics
from delrec_lite.server.rates import RateLimit
from delrec_lite.server.request_id import HEADER, request_id
from delrec_lite.server.tracing import Traces

LOG = logging.getLogger("delrec_lite.server")
# The titles of a thousand histories fit.
BODY_BYTES = 2_000_000
BODY_SECONDS = 15.0
CLIENT_CLOSED = 499  # nobody reads the answer; the status is for the log and the metrics
# Needed before a key can be asked for, or by monitoring that has none. The metrics tell how much is sold: they need it.
WITHOUT_KEY = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
# Not limited, because monitoring and the page need them.
WITHOUT_LIMIT = WITHOUT_KEY | {"/metrics"}


class Refusal(NamedTuple):
    """The answer to a request that is not passed on."""

    status: int
    error: str
    hint: str
    header: tuple[bytes, bytes] | None = None


_TOO_LONG = Refusal(413, f"the body is over {BODY_BYTES} bytes", "send smaller requests")
_TOO_SLOW = Refusal(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds", "send it without pauses")


class Guard:
    """ASGI middleware.

    Args:
        app: The guarded application.
        metrics: Counts the requests.
        route_paths: Paths that are counted by name; all others are counted together.
        keys: One is required in ``Authorization: Bearer KEY``, if there are any.
        log_bodies: Log the bodies of requests, histories included.
        root_path: Prefix of all paths behind a proxy, which may have removed it or not.
        limit: On the requests with each key or, without keys, of each client's address.
        traces: Get a span for each request.
    """

    def __init__(
        self,
        app: Any,
        metrics: Metrics,
        route_paths: frozenset[str],
        keys: Keys,
        log_bodies: bool = False,
        root_path: str = "",
        limit: RateLimit | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.app, self.metrics, self.route_paths = app, metrics, route_paths
        self.keys, self.log_bodies, self.root_path, self.limit = keys, log_bodies, root_path, limit
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
            await self._answer(scope, receive, send, path, name, headers, attributes)

    async def _answer(
        self,
        scope: Any,
        receive: Any,
        send: Any,
        path: str,
        name: str,
        headers: dict[bytes, bytes],
        attributes: dict[str, Any],
    ) -> None:
        start, status, body = time.perf_counter(), 500, b""
        identity = scope["state"]["request_id"]
        caller = self.keys.name_of(headers.get(b"authorization", b"")) if self.keys else None

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER.lower().encode(), identity.encode())]}
            await send(message)

        try:
            refused = self._refused(path, headers, caller, scope)
            if refused is None:
                body, refused = await _read_body(receive)
            if refused is not None:
                await _refuse(sending, refused)
            elif not await _run_until_disconnect(self.app(scope, _replay(body, receive), sending), receive):
                status = CLIENT_CLOSED
        finally:
            seconds = time.perf_counter() - start
            self.metrics.answered(name, status, seconds)
            line = {"id": identity, "method": scope["method"], "path": path[:200], "status": status}
            line["ms"] = round(seconds * 1e3, 2)
            attributes |= {"http.response.status_code": status, "delrec.request_id": identity}
            if caller is not None:
                line["key"] = caller
            if self.log_bodies and body:
                line["body"] = body.decode("utf-8", "replace")
            LOG.info(json.dumps(line))

    def _refused(self, path: str, headers: dict[bytes, bytes], caller: str | None, scope: Any) -> Refusal | None:
        if self.keys and caller is None and path not in WITHOUT_KEY:
            return _no_key(path, sent=b"authorization" in headers)
        if self.limit is not None and path not in WITHOUT_LIMIT:
            wait = self.limit.wait(caller or str((scope.get("client") or ("",))[0]))
            if wait > 0:
                seconds = math.ceil(wait)
                hint = f"try again in {seconds} second{'s' if seconds > 1 else ''}"
                return Refusal(429, "too many requests", hint, (b"retry-after", str(seconds).encode()))
        return _TOO_LONG if _length(headers) > BODY_BYTES else None


def _no_key(path: str, sent: bool) -> Refusal:
    hint = "the key that was sent is not one of them" if sent else "send Authorization: Bearer KEY"
    if path == "/metrics":
        hint += "; in Prometheus: authorization: {credentials_file: FILE}; /healthz and /readyz need none"
    return Refusal(401, "this server requires a key", hint, (b"www-authenticate", b"Bearer"))


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


async def _refuse(send: Any, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.error, "hint": refusal.hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [refusal.header] if refusal.header else []
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
