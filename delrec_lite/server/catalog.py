"""The routes of the catalogue: which items are available, changed while the server runs, and its item columns."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from pydantic import Field as F

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.availability import AvailabilityState
from delrec_lite.server.schemas import OnUnknown, SkippedTitle, Title
from delrec_lite.server.worker import Worker
from delrec_lite.server.workers import Workers

Items = Annotated[list[Title], F(max_length=10_000, description="Item ids, `id:ITEM` or whole titles.")]


class AvailabilityBody(BaseModel):
    """Items that can be recommended from now on, and items that cannot."""

    model_config = ConfigDict(extra="forbid", strict=True)

    available: Items = []
    unavailable: Items = []
    on_unknown: OnUnknown = "skip"


class ChangeAnswer(BaseModel):
    """How many items changed, what named none, how many are not available now, and whether a restart keeps that."""

    changed: int
    skipped: list[SkippedTitle]
    count: int
    kept: bool


class NamedItem(BaseModel):
    """An item of the catalogue."""

    id: str
    title: str


class AvailabilityAnswer(BaseModel):
    """The items that are not available, `count` of `items`, and changed ids that this bundle does not have.

    Both lists hold at most `limit` entries.
    """

    unavailable: list[NamedItem]
    count: int
    items: int
    vanished: list[str]
    kept: bool


class ColumnAnswer(BaseModel):
    """An item column that `where` can name, with its values or their range; `missing` counts items without one."""

    name: str
    kind: str
    missing: int
    values: dict[str, int] | None = None
    different: int | None = None
    true: int | None = None
    lowest: float | None = None
    highest: float | None = None


def catalog_router(
    worker: Worker | Workers, state: AvailabilityState, failures: dict[int | str, dict[str, Any]]
) -> APIRouter:
    """The routes.

    Args:
        worker: Has the recommender that is served.
        state: What was changed.
        failures: What the document says of refusals, by status.
    """
    router = APIRouter(prefix="/v1/catalog")
    read: dict[int | str, dict[str, Any]] = {status: failures[status] for status in (401, 422, 429)}

    @router.get("/availability", response_model=AvailabilityAnswer, responses=read)
    async def availability(
        limit: int = Query(1000, ge=0, le=100_000, description="How many items to name."),
    ) -> Any:
        """The items that are never recommended now."""
        return await asyncio.to_thread(_shown, worker.recommender, state, limit)

    @router.post("/availability", response_model=ChangeAnswer, responses=failures)
    async def change(body: AvailabilityBody) -> Any:
        """Make items available or not from the next request on; items in histories are still read."""
        changed = await asyncio.to_thread(
            lambda: state.change(
                lambda: worker.recommender.availability, body.available, body.unavailable, body.on_unknown == "refuse"
            )
        )
        count = len(worker.recommender.availability.unavailable)
        return {**asdict(changed), "count": count, "kept": state.kept}

    @router.get("/columns", response_model=list[ColumnAnswer], response_model_exclude_none=True, responses=read)
    async def columns() -> Any:
        """The item columns that `where` can name."""
        return await asyncio.to_thread(worker.recommender.columns.summaries)

    return router


def _shown(recommender: Recommender, state: AvailabilityState, limit: int) -> dict[str, Any]:
    state.refresh(recommender.availability)
    items, unavailable = recommender.bundle.items, recommender.availability.unavailable
    return {
        "unavailable": [{"id": items.ids[item], "title": items.titles[item]} for item in unavailable[:limit]],
        "count": len(unavailable),
        "items": len(items.ids),
        "vanished": state.vanished(recommender.availability)[:limit],
        "kept": state.kept,
    }
