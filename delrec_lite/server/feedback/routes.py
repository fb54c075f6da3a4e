"""`POST /v1/feedback`: what people did with served items, acknowledged when it is on the disk."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.feedback.records import ACCEPTED, DUPLICATE, Event
from delrec_lite.server.feedback.schemas import FeedbackAnswer, FeedbackBody, FeedbackEvent, RefusedEvent
from delrec_lite.server.feedback.store import NotStored
from delrec_lite.server.schemas import Failure

# Seconds after which an event that is not written yet is not acknowledged.
PATIENCE = 10.0
# Seconds after which a client may try again: a full disk takes someone to look at it.
_RETRY, _RETRY_FULL = 1, 30
_NO_LOG = "no feedback is logged here", "start the server with --feedback-log FILE.sqlite"
_UNKNOWN = "send the X-Request-Id of the answer, and the id of an item in it"


def add_feedback(api: FastAPI, log: FeedbackLog | None, failures: dict[int | str, dict[str, Any]]) -> None:
    """Add the route; without a log it answers 404.

    Args:
        api: Gets it.
        log: Where events go.
        failures: The documented statuses of the other routes.
    """
    shared = (400, 401, 408, 413, 415, 422, 429)
    responses: dict[int | str, dict[str, Any]] = {status: failures[status] for status in shared}
    responses[404] = {"model": Failure, "description": "There is no such list, no such item in it, or no log"}
    responses[503] = {"model": Failure, "description": "It could not be written now"}
    responses[507] = {"model": Failure, "description": "The disk is full"}

    @api.post("/v1/feedback", response_model=FeedbackAnswer, responses=responses)
    async def feedback(body: FeedbackBody) -> Any:
        """Store what people did with served items; an answer 200 means that it is on the disk."""
        if log is None:
            return _failure(404, *_NO_LOG)
        events = body.all()
        future = asyncio.wrap_future(log.record([_event(event) for event in events]))
        try:
            outcomes = await asyncio.wait_for(future, PATIENCE)
        except TimeoutError:
            return _failure(503, "it was not written in time", "send it again later", _RETRY)
        answer = _answer(events, outcomes)
        if body.events is None and answer.refused:
            return _failure(404, answer.refused[0].reason, _UNKNOWN)
        return answer

    @api.exception_handler(NotStored)
    async def not_stored(_: Request, error: NotStored) -> JSONResponse:
        status, seconds = (507, _RETRY_FULL) if error.full else (503, _RETRY)
        return _failure(status, error.message, error.hint, seconds)


def _event(event: FeedbackEvent) -> Event:
    when = time.time() if event.time is None else event.time.timestamp()
    return Event(event.request_id, event.item, event.event, event.value, when)


def _answer(events: Sequence[FeedbackEvent], outcomes: Sequence[str]) -> FeedbackAnswer:
    refused = [
        RefusedEvent(index=index, request_id=event.request_id, item=event.item, reason=outcome)
        for index, (event, outcome) in enumerate(zip(events, outcomes, strict=True))
        if outcome not in (ACCEPTED, DUPLICATE)
    ]
    counts = outcomes.count(ACCEPTED), outcomes.count(DUPLICATE)
    return FeedbackAnswer(accepted=counts[0], duplicates=counts[1], refused=refused)


def _failure(status: int, error: str, hint: str, retry: int | None = None) -> JSONResponse:
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse({"error": error, "hint": hint}, status, headers)
