"""The client that waits for each answer."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, Unpack

from delrec_lite.client import calls, wire
from delrec_lite.client.answers import (
    Answer,
    AvailabilityAnswer,
    BatchAnswer,
    ChangeAnswer,
    ColumnAnswer,
    ExplainAnswer,
    FeedbackAnswer,
    ItemAnswer,
    RecommendAnswer,
    TeacherAnswer,
)
from delrec_lite.client.calls import (
    AvailabilityOptions,
    BatchOptions,
    Call,
    ExplainOptions,
    FeedbackOptions,
    RecommendOptions,
    TeacherOptions,
    Titles,
)
from delrec_lite.client.failures import RequestError
from delrec_lite.client.retries import Retries
from delrec_lite.client.wire import httpx2


class Client:
    """Asks a `delrec-lite serve`; use it as a context manager, or `close` it. Threads may share it.

    Every method raises ``RefusedError`` with the server's message and hint, ``BusyError`` where the server was busy at
    the last attempt too, ``UnreachableError`` without a connection, and ``UsageError`` before anything is sent.

    Args:
        address: Of the server, with the prefix of a proxy: ``http://127.0.0.1:8080`` or ``https://shop.example/recs``.
        key: That the server asks for.
        session: Of ``recommend``, where a call names none: its history is kept, and only what is new is computed.
        timeout: Seconds without a byte, for connecting and for an answer.
        retries: When a request is sent again.
        transport: Of httpx2, for a Unix socket, certificates of your own or a proxy.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        session: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.address, self.session, self.retries = address, session, retries or Retries()
        self._http = httpx2.Client(**wire.connection(address, key, timeout, transport))

    def recommend(self, history: Titles, **options: Unpack[RecommendOptions]) -> RecommendAnswer:
        """Rank what comes after one history of titles or ids, oldest first."""
        return self._send(calls.recommend(history, options, self.session))

    def batch(self, histories: Iterable[Titles], **options: Unpack[BatchOptions]) -> BatchAnswer:
        """Rank what comes after each of many histories."""
        return self._send(calls.batch(histories, options))

    def explain(self, history: Titles, **options: Unpack[ExplainOptions]) -> ExplainAnswer:
        """What each item of a history adds to a recommendation."""
        return self._send(calls.explain(history, options))

    def teacher(self, history: Titles, **options: Unpack[TeacherOptions]) -> TeacherAnswer:
        """The ranking of the distilled recommender."""
        return self._send(calls.teacher(history, options))

    def availability(self, **options: Unpack[AvailabilityOptions]) -> ChangeAnswer:
        """Make items available or not, for everyone and from the next request on."""
        return self._send(calls.availability(options))

    def unavailable(self, limit: int = 1000) -> AvailabilityAnswer:
        """The items that are never recommended now; so many of them are named."""
        return self._send(calls.unavailable(limit))

    def columns(self) -> list[ColumnAnswer]:
        """The item columns that ``where`` can name, with their values or ranges."""
        return self._send(calls.columns())

    def feedback(self, **options: Unpack[FeedbackOptions]) -> FeedbackAnswer:
        """Store what people did with served items; an event counts once, however often it is sent."""
        return self._send(calls.feedback(options))

    def items(self, query: str = "", limit: int = 10) -> list[ItemAnswer]:
        """Titles of the catalogue that look like some words; without words the most popular."""
        return self._send(calls.items(query, limit))

    def ready(self) -> dict[str, str]:
        """Status and name of the bundle, as soon as the model answers."""
        return self._send(calls.ready())

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _send(self, call: Call[Answer]) -> Answer:
        attempt = 1
        while True:
            try:
                return wire.answer(call, self._request(call))
            except RequestError as error:
                wait = self.retries.wait(attempt, error)
                if wait is None:
                    raise
            time.sleep(wait)
            attempt += 1

    def _request(self, call: Call[Any]) -> httpx2.Response:
        try:
            return self._http.request(**wire.request(call))
        except httpx2.RequestError as error:
            raise wire.unreachable(error, self.address) from error
