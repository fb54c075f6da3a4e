"""The client for asyncio."""

import asyncio
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


class AsyncClient:
    """``Client`` for asyncio: the same arguments, methods and errors; many requests may be on their way at once."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        session: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.address, self.session, self.retries = address, session, retries or Retries()
        self._http = httpx2.AsyncClient(**wire.connection(address, key, timeout, transport))

    async def recommend(self, history: Titles, **options: Unpack[RecommendOptions]) -> RecommendAnswer:
        """Rank what comes after one history of titles or ids, oldest first."""
        return await self._send(calls.recommend(history, options, self.session))

    async def batch(self, histories: Iterable[Titles], **options: Unpack[BatchOptions]) -> BatchAnswer:
        """Rank what comes after each of many histories."""
        return await self._send(calls.batch(histories, options))

    async def explain(self, history: Titles, **options: Unpack[ExplainOptions]) -> ExplainAnswer:
        """What each item of a history adds to a recommendation."""
        return await self._send(calls.explain(history, options))

    async def teacher(self, history: Titles, **options: Unpack[TeacherOptions]) -> TeacherAnswer:
        """The ranking of the distilled recommender."""
        return await self._send(calls.teacher(history, options))

    async def availability(self, **options: Unpack[AvailabilityOptions]) -> ChangeAnswer:
        """Make items available or not, for everyone and from the next request on."""
        return await self._send(calls.availability(options))

    async def unavailable(self, limit: int = 1000) -> AvailabilityAnswer:
        """The items that are never recommended now; so many of them are named."""
        return await self._send(calls.unavailable(limit))

    async def columns(self) -> list[ColumnAnswer]:
        """The item columns that ``where`` can name, with their values or ranges."""
        return await self._send(calls.columns())

    async def feedback(self, **options: Unpack[FeedbackOptions]) -> FeedbackAnswer:
        """Store what people did with served items; an event counts once, however often it is sent."""
        return await self._send(calls.feedback(options))

    async def items(self, query: str = "", limit: int = 10) -> list[ItemAnswer]:
        """Titles of the catalogue that look like some words; without words the most popular."""
        return await self._send(calls.items(query, limit))

    async def ready(self) -> dict[str, str]:
        """Status and name of the bundle, as soon as the model answers."""
        return await self._send(calls.ready())

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _send(self, call: Call[Answer]) -> Answer:
        attempt = 1
        while True:
            try:
                return wire.answer(call, await self._request(call))
            except RequestError as error:
                wait = self.retries.wait(attempt, error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)
            attempt += 1

    async def _request(self, call: Call[Any]) -> httpx2.Response:
        try:
            return await self._http.request(**wire.request(call))
        except httpx2.RequestError as error:
            raise wire.unreachable(error, self.address) from error
