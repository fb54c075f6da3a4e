"""Schemas of `POST /v1/feedback`."""

from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as F

MOST_EVENTS = 1000
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=140)]  # with a place in a batch behind it
Item = Annotated[str, StringConstraints(min_length=1, max_length=500), F(description="Its `id` in the answer.")]
Kind = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_-]*$"),
    F(description="`click`, `purchase` or another word."),
]
Value = Annotated[float, F(allow_inf_nan=False, description="Such as a price.")]
Time = Annotated[AwareDatetime, F(strict=False, description="ISO 8601 with an offset, or seconds since 1970.")]


class FeedbackEvent(BaseModel):
    """What a person did with an item of a served list; it counts once, however often it is sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: RequestId
    item: Item
    event: Kind
    value: Value | None = None
    time: Time | None = None


class FeedbackBody(BaseModel):
    """One event, or a list of them in `events`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: RequestId | None = None
    item: Item | None = None
    event: Kind | None = None
    value: Value | None = None
    time: Time | None = None
    events: Annotated[list[FeedbackEvent], F(min_length=1, max_length=MOST_EVENTS)] | None = None

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        given = self.model_fields_set - {"events"}
        missing = [name for name in ("request_id", "item", "event") if getattr(self, name) is None]
        if self.events is not None and given:
            raise ValueError(f"there are events, and {min(given)} beside them")
        if self.events is None and missing:
            raise ValueError(f"{missing[0]} is missing")
        return self

    def all(self) -> list[FeedbackEvent]:
        """The events, also where there is one alone."""
        if self.events is not None:
            return self.events
        one = self.model_dump(exclude={"events"}, exclude_unset=True)
        return [FeedbackEvent.model_validate(one)]


class RefusedEvent(BaseModel):
    """An event that was not stored; `index` is its place in `events`."""

    index: int
    request_id: str
    item: str
    reason: str


class FeedbackAnswer(BaseModel):
    """What was stored, durably: new events, and events that were there already."""

    accepted: int
    duplicates: int
    refused: list[RefusedEvent]
