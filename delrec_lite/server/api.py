"""The HTTP API: a FastAPI application over one worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from delrec_lite.errors import DelrecError
from delrec_lite.runtime.explain import explain as explain_item
from delrec_lite.server.guard import Guard
from delrec_lite.server.metrics import Metrics
from delrec_lite.server.schemas import (
    BatchAnswer,
    BatchBody,
    ExplainAnswer,
    ExplainBody,
    Failure,
    ItemAnswer,
    RecommendAnswer,
    RecommendBody,
    TeacherAnswer,
    TeacherBody,
)
from delrec_lite.server.worker import DeadlineExceeded, QueueFull, Work, Worker
from delrec_lite.version import __version__

_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The request cannot be answered"},
    401: {"model": Failure, "description": "The key is missing or wrong"},
    408: {"model": Failure, "description": "The body arrived too slowly"},
    413: {"model": Failure, "description": "The body is too long"},
    422: {"model": Failure, "description": "The request is not valid"},
    503: {"model": Failure, "description": "Too many requests are waiting"},
    504: {"model": Failure, "description": "No answer in time"},
}


def make_api(worker: Worker, key: str | None = None, log_bodies: bool = False) -> FastAPI:
    """The application; it closes ``worker`` when it shuts down.

    Args:
        worker: Owns the model.
        key: Required from every caller; None: no key is required.
        log_bodies: Log the bodies of requests, histories included.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    api = FastAPI(title="delrec-lite", version=__version__, lifespan=lifespan, redoc_url=None)
    metrics = Metrics(worker.waiting)
    _handle_errors(api)

    async def answer(work: Work) -> Any:
        future = asyncio.wrap_future(worker.ask(work))
        try:
            return await asyncio.wait_for(future, worker.seconds + 1.0)
        except TimeoutError as error:
            raise DeadlineExceeded("no answer in time", "send a smaller request, or try again in a moment") from error

    @api.post("/v1/recommend", response_model=RecommendAnswer, responses=_FAILURES)
    async def recommend(body: RecommendBody) -> Any:
        """Rank the next items after one history."""
        arguments = {**body.model_dump(exclude={"session"}), "session": body.session}
        recommendation = await answer(lambda recommender: recommender.recommend(**arguments))
        prefix = len(worker.recommender.bundle.prompt.prefix)
        metrics.tokens(recommendation.tokens_computed, recommendation.tokens_avoided, prefix)
        return asdict(recommendation)

    @api.post("/v1/batch", response_model=BatchAnswer, responses=_FAILURES)
    async def batch(body: BatchBody) -> Any:
        """Rank the next items for many histories."""
        arguments = body.model_dump()
        rankings = await answer(lambda recommender: recommender.recommend_batch(**arguments))
        return {
            "answers": [[asdict(item) for item in ranking] for ranking in rankings],
            "skipped": [[asdict(skipped) for skipped in ranking.skipped] for ranking in rankings],
            "basis": [ranking.basis for ranking in rankings],
        }

    @api.post("/v1/explain", response_model=ExplainAnswer, responses=_FAILURES)
    async def explain(body: ExplainBody) -> Any:
        """How much each item of a history adds to a recommendation."""
        explanation = await answer(
            lambda recommender: explain_item(recommender, body.history, body.item, body.allow_new, body.on_unknown)
        )
        return asdict(explanation)

    @api.post("/v1/teacher", response_model=TeacherAnswer, responses=_FAILURES)
    async def teacher(body: TeacherBody) -> Any:
        """The ranking of the distilled recommender; an error where the bundle has none."""
        ranking = await answer(lambda recommender: recommender.teacher_ranking(body.history, body.k, body.on_unknown))
        kinds = worker.recommender.teacher.kinds if worker.recommender.teacher else ()
        skipped = [asdict(skipped) for skipped in ranking.skipped]
        return {"kinds": list(kinds), "items": [asdict(item) for item in ranking], "skipped": skipped}

    @api.get("/v1/items", response_model=list[ItemAnswer], responses={422: _FAILURES[422], 401: _FAILURES[401]})
    async def items(
        query: str = Query("", max_length=500, description="Words of a title; empty: the most popular items."),
        limit: int = Query(10, ge=1, le=100),
    ) -> Any:
        """Titles of the catalogue that look most like some words."""
        recommender = worker.recommender
        matches = await asyncio.to_thread(recommender.search, query, limit)
        ids = recommender.bundle.items.ids
        return [{"id": ids[match.item], "title": match.title} for match in matches]

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether the model answers."""
        has_teacher = "yes" if worker.recommender.teacher is not None else "no"
        return {"status": "ready", "bundle": worker.recommender.bundle.name, "teacher": has_teacher}

    @api.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        text = resources.files("delrec_lite.server").joinpath("static/index.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    route_paths = frozenset(str(getattr(route, "path", "")) for route in api.routes)
    api.add_middleware(Guard, metrics=metrics, route_paths=route_paths, key=key, log_bodies=log_bodies)
    return api


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

    @api.exception_handler(DelrecError)
    async def refused(_: Request, error: DelrecError) -> JSONResponse:
        return failure(400, error.message, error.hint)

    @api.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return failure(422, f"{where}: {first['msg']}", "see /docs for the fields of a request")

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return failure(error.status_code, str(error.detail), "see /docs", **(error.headers or {}))
