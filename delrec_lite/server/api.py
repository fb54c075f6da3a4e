"""The HTTP API: a FastAPI application over one worker."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from delrec_lite.errors import DelrecError, StorageError, did_you_mean
from delrec_lite.runtime.answer import Ranking
from delrec_lite.runtime.availability import Availability
from delrec_lite.server import messages
from delrec_lite.server.arms import Arm, Arms
from delrec_lite.server.availability import AvailabilityState
from delrec_lite.server.caller import USER_HEADER, caller_of
from delrec_lite.server.catalog import AvailabilityBody, catalog_router
from delrec_lite.server.collectors import add_collectors
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.feedback.routes import add_feedback
from delrec_lite.server.feedback.schemas import FeedbackBody
from delrec_lite.server.feedback.serving import log_lists
from delrec_lite.server.guard import Guard
from delrec_lite.server.health import Health, add_health
from delrec_lite.server.keys import Keys
from delrec_lite.server.metrics import Metrics
from delrec_lite.server.rates import RateLimit
from delrec_lite.server.request_id import HEADER
from delrec_lite.server.schemas import (
    BatchAnswer,
    BatchBody,
    ExplainAnswer,
    ExplainBody,
    Failure,
    ItemAnswer,
    RecommendAnswer,
    RecommendBody,
    SessionHeader,
    TeacherAnswer,
    TeacherBody,
)
from delrec_lite.server.steps import batch_steps, explanation_steps, recommend_steps, size_of, teacher_steps, with_label
from delrec_lite.server.tracing import Traces
from delrec_lite.server.worker import DeadlineExceeded, QueueFull, Work, Worker
from delrec_lite.server.workers import Workers
from delrec_lite.version import __version__

_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The request cannot be answered"},
    401: {"model": Failure, "description": "The key is missing or wrong"},
    408: {"model": Failure, "description": "The body arrived too slowly"},
    413: {"model": Failure, "description": "The body is too long"},
    415: {"model": Failure, "description": "The body is not sent as JSON"},
    422: {"model": Failure, "description": "The request is not valid"},
    429: {"model": Failure, "description": "Too many requests with this key"},
    503: {"model": Failure, "description": "Too many requests are waiting, or a change cannot be kept"},
    504: {"model": Failure, "description": "No answer in time"},
}


def make_api(
    worker: Worker | Workers,
    key: str | Keys | None = None,
    log_bodies: bool = False,
    root_path: str = "",
    cors_origins: Sequence[str] = (),
    state: AvailabilityState | None = None,
    limit: RateLimit | None = None,
    log: FeedbackLog | None = None,
    arms: Arms | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """The application; it closes ``worker``, ``arms``, ``log`` and ``traces`` when it shuts down.

    Args:
        worker: Owns the model.
        key: Required from every caller, one of them if there are several; None: no key is required.
        log_bodies: Log the bodies of requests, histories included.
        root_path: Prefix of all paths behind a proxy, such as ``/recs``; paths without it are answered too.
        state: What was changed about the availability of items; None: nothing, and changes are kept in memory.
        cors_origins: Other sites whose pages may call the API from a browser, such as ``https://shop.example``.
        limit: On each caller's requests.
        log: Of served lists and feedback; None: nothing is logged.
        arms: ``worker``, and the one of a bundle that shares the traffic; None: ``worker`` alone.
        traces: Of requests; None: nothing is traced.
    """
    keys = key if isinstance(key, Keys) else Keys({"key": key} if key else {})
    arms, traces = arms or Arms(worker), traces or Traces()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for opened in (arms, log, traces):
            if opened is not None:
                await asyncio.to_thread(opened.close)

    api = FastAPI(title="delrec-lite", version=__version__, lifespan=lifespan, redoc_url=None)
    metrics, health = Metrics(arms.waiting), Health(arms)
    served = [one for arm in arms for one in arm.worker.each]
    for one in served:
        one.on_group, one.pulse.on_begin = metrics.evaluated, metrics.queued.observe
    add_collectors(metrics.registry, arms, health, log)
    _handle_errors(api)

    state = AvailabilityState() if state is None else state
    state.follow([partial(_availability, one) for one in served])

    async def answer(
        work: Work, size: int = 1, arm: Arm = arms.first, joins: bool = False, session: str | None = None
    ) -> Any:
        state.refresh(arm.worker.recommender.availability)
        future = asyncio.wrap_future(arm.worker.ask(work, size, joins, session))
        try:
            return await asyncio.wait_for(future, arm.worker.seconds + 1.0)
        except TimeoutError as error:
            raise DeadlineExceeded("no answer in time", "send a smaller request, or try again in a moment") from error

    @api.post("/v1/recommend", response_model=RecommendAnswer, responses=_FAILURES)
    async def recommend(body: RecommendBody, request: Request, x_session: SessionHeader = None) -> Any:
        """Rank the next items after one history."""
        began = time.perf_counter()
        if body.session is None and x_session:
            body = body.model_copy(update={"session": x_session})
        caller = caller_of(request, body.session)
        arm = arms.of(caller.unit)
        steps = partial(recommend_steps, body=body)
        recommendation = await answer(steps, size_of(body), arm, joins=True, session=body.session)
        prefix = len(arm.worker.recommender.bundle.prompt.prefix)
        metrics.tokens(recommendation.tokens_computed, recommendation.tokens_avoided, prefix)
        traces.phases(recommendation, began)
        ranking = Ranking(recommendation.items, recommendation.skipped, recommendation.basis)
        log_lists(log, caller, arm, recommendation.bundle, [ranking], [body.history])
        return {"request_id": request.state.request_id, **asdict(recommendation)}

    @api.post("/v1/batch", response_model=BatchAnswer, responses=_FAILURES)
    async def batch(body: BatchBody, request: Request) -> Any:
        """Rank the next items for many histories, in steps between which other requests are answered."""
        caller = caller_of(request)
        arm = arms.of(caller.unit)
        work = with_label(lambda recommender: batch_steps(recommender, body))
        rankings, label = await answer(work, len(body.histories), arm)
        log_lists(log, caller, arm, label, rankings, body.histories, many=True)
        return {
            "request_id": request.state.request_id,
            "answers": [[asdict(item) for item in ranking] for ranking in rankings],
            "skipped": [[asdict(skipped) for skipped in ranking.skipped] for ranking in rankings],
            "basis": [ranking.basis for ranking in rankings],
            "words": [asdict(ranking.words) if ranking.words else None for ranking in rankings],
            "bundle": label,
        }

    @api.post("/v1/explain", response_model=ExplainAnswer, responses=_FAILURES)
    async def explain(body: ExplainBody) -> Any:
        """How much each item of a history adds to a recommendation."""
        size = size_of(body) + min(len(body.history), worker.recommender.bundle.prompt.max_history)
        explanation = await answer(lambda recommender: explanation_steps(recommender, body), size)
        return asdict(explanation)

    @api.post("/v1/teacher", response_model=TeacherAnswer, responses=_FAILURES)
    async def teacher(body: TeacherBody) -> Any:
        """The ranking of the distilled recommender; an error where the bundle has none."""
        ranking = await answer(lambda recommender: teacher_steps(recommender, body), size_of(body))
        kinds = worker.recommender.teacher.kinds if worker.recommender.teacher else ()
        skipped = [asdict(skipped) for skipped in ranking.skipped]
        return {"kinds": list(kinds), "items": [asdict(item) for item in ranking], "skipped": skipped}

    few: dict[int | str, dict[str, Any]] = {status: _FAILURES[status] for status in (401, 422, 429)}

    @api.get("/v1/items", response_model=list[ItemAnswer], responses=few)
    async def items(
        query: str = Query("", max_length=500, description="Words of a title; empty: the most popular items."),
        limit: int = Query(10, ge=1, le=100),
    ) -> Any:
        """Titles of the catalogue that look most like some words."""
        recommender = worker.recommender
        matches = await asyncio.to_thread(recommender.search, query, limit)
        ids = recommender.bundle.items.ids
        return [{"id": ids[match.item], "title": match.title} for match in matches]

    add_health(api, health)
    add_feedback(api, log, _FAILURES)

    @api.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    # Read once: the package may be replaced while the server runs.
    page_text = resources.files("delrec_lite.server").joinpath("static/index.html").read_text(encoding="utf-8")

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(
            page_text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        )

    api.include_router(catalog_router(worker, state, _FAILURES))
    route_paths = frozenset(str(getattr(route, "path", "")) for route in api.routes)
    api.add_middleware(
        Guard,
        metrics=metrics,
        route_paths=route_paths,
        keys=keys,
        log_bodies=log_bodies,
        root_path=root_path,
        limit=limit,
        traces=traces,
    )
    if cors_origins:  # outside the guard: a browser asks for permission without the key
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Session", HEADER, USER_HEADER],
            expose_headers=["Retry-After", HEADER],
        )
    return api


def _availability(worker: Worker) -> Availability:
    return worker.recommender.availability


# The page is one file: nothing from another address may be loaded, run or called.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def _handle_errors(api: FastAPI) -> None:
    """Answer every error with a Failure and its own status."""

    def failure(status: int, error: str, hint: str, **headers: str) -> JSONResponse:
        clean = error.encode("utf-8", "replace").decode(), hint.encode("utf-8", "replace").decode()
        return JSONResponse({"error": clean[0], "hint": clean[1]}, status, headers)

    @api.exception_handler(QueueFull)
    async def queue_full(_: Request, error: QueueFull) -> JSONResponse:
        return failure(503, error.message, error.hint, **{"Retry-After": "1"})

    @api.exception_handler(DeadlineExceeded)
    async def deadline_exceeded(_: Request, error: DeadlineExceeded) -> JSONResponse:
        return failure(504, error.message, error.hint)

    @api.exception_handler(StorageError)
    async def not_kept(_: Request, error: StorageError) -> JSONResponse:
        return failure(503, error.message, error.hint, **{"Retry-After": "10"})

    @api.exception_handler(DelrecError)
    async def refused(_: Request, error: DelrecError) -> JSONResponse:
        return failure(400, error.message, error.hint)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return failure(*messages.invalid(error.errors(), _content_type(request), _FIELDS.get(_route(request), [])))

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 400:  # FastAPI could not read the body
            return failure(*messages.unreadable_body(_content_type(request)))
        if error.status_code == 404:
            path = request.url.path[:200]
            return failure(404, f"there is nothing at {path}", did_you_mean(path, _paths(api)), **headers)
        if error.status_code == 405:
            allowed = headers.get("Allow", "another method")
            return failure(405, f"{request.method} is not possible here", f"use {allowed}; see /docs", **headers)
        return failure(error.status_code, str(error.detail), "see /docs", **headers)

    @api.exception_handler(Exception)
    async def broken(request: Request, _: Exception) -> JSONResponse:
        headers = {HEADER: str(getattr(request.state, "request_id", ""))}
        return failure(500, "the server made a mistake", "its log has the details; please report them", **headers)


# The fields of each path's body.
_FIELDS = {
    f"/v1/{name}": list(body.model_fields)
    for name, body in (
        ("recommend", RecommendBody),
        ("batch", BatchBody),
        ("explain", ExplainBody),
        ("teacher", TeacherBody),
        ("catalog/availability", AvailabilityBody),
        ("feedback", FeedbackBody),
    )
}


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


def _route(request: Request) -> str:
    """The path of the route that matched, without a proxy's prefix."""
    return str(getattr(request.scope.get("route"), "path", ""))


def _paths(api: FastAPI) -> list[str]:
    return sorted({str(getattr(route, "path", "")) for route in api.routes} - {"/docs/oauth2-redirect"})
