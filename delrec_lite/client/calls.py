"""The server's paths as calls: what is sent, and what the answer becomes. Both clients send the same ones."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypedDict

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
from delrec_lite.errors import UsageError

# A title, ``id:ITEM``, or a number: an item's id.
Titles = Iterable[str | int]


class RecommendOptions(TypedDict, total=False):
    """Fields of ``POST /v1/recommend`` beside the history; those left out have the server's default."""

    k: int
    candidates: Titles | None
    exclude: Titles
    exclude_history: bool | None
    session: str | None
    allow_new: bool
    on_unknown: Literal["skip", "refuse"]
    where: str | None
    diversity: float
    popularity_discount: float
    words: str | None
    words_weight: float | None


class BatchOptions(TypedDict, total=False):
    """Fields of ``POST /v1/batch`` beside the histories; lists have an entry for each."""

    k: int
    candidates: Iterable[Titles | None]
    exclude: Iterable[Titles]
    exclude_history: bool | None
    allow_new: bool
    on_unknown: Literal["skip", "refuse"]
    where: str | None
    diversity: float
    popularity_discount: float
    words: Sequence[str | None]
    words_weight: float | None


class ExplainOptions(TypedDict, total=False):
    """Fields of ``POST /v1/explain`` beside the history."""

    words: str | None
    item: str | int | None
    allow_new: bool
    on_unknown: Literal["skip", "refuse"]


class TeacherOptions(TypedDict, total=False):
    """Fields of ``POST /v1/teacher`` beside the history."""

    k: int
    on_unknown: Literal["skip", "refuse"]
    where: str | None


class AvailabilityOptions(TypedDict, total=False):
    """Fields of ``POST /v1/catalog/availability``."""

    available: Titles
    unavailable: Titles
    on_unknown: Literal["skip", "refuse"]


class Event(TypedDict):
    """What a person did with an item of a served list."""

    request_id: str
    item: str
    event: str
    value: NotRequired[float | None]
    time: NotRequired[str | float | None]


class FeedbackOptions(TypedDict, total=False):
    """Fields of ``POST /v1/feedback``: one event, or ``events``."""

    request_id: str
    item: str
    event: str
    value: float | None
    time: str | float | None
    events: Iterable[Event]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request; the server may receive it twice, because none counts twice.

    Attributes:
        method: ``GET`` or ``POST``.
        path: Below the server's address.
        answer: What the JSON of the answer becomes.
        body: Sent as JSON; None: nothing.
        query: Of the address.
    """

    method: str
    path: str
    answer: type[Answer]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str | int] | None = None


def recommend(history: Titles, options: RecommendOptions, session: str | None) -> Call[RecommendAnswer]:
    """A ranking after one history; ``session`` is used where the options name none."""
    body = {**_session(session), **options, "history": titles("history", history)}
    return Call("POST", "v1/recommend", RecommendAnswer, _with_lists(body, "candidates", "exclude"))


def batch(histories: Iterable[Titles], options: BatchOptions) -> Call[BatchAnswer]:
    """A ranking for each of many histories."""
    body = {**options, "histories": histories}
    for name in ("histories", "candidates", "exclude"):
        if name in body:
            body[name] = [entry if entry is None else titles(name, entry) for entry in entries(name, body[name])]
    return Call("POST", "v1/batch", BatchAnswer, body)


def explain(history: Titles, options: ExplainOptions) -> Call[ExplainAnswer]:
    """What each item of a history adds to a recommendation."""
    body: dict[str, Any] = {**options, "history": titles("history", history)}
    if body.get("item") is not None:
        body["item"] = _title("item", body["item"])
    return Call("POST", "v1/explain", ExplainAnswer, body)


def teacher(history: Titles, options: TeacherOptions) -> Call[TeacherAnswer]:
    """The ranking of the distilled recommender."""
    return Call("POST", "v1/teacher", TeacherAnswer, {**options, "history": titles("history", history)})


def availability(options: AvailabilityOptions) -> Call[ChangeAnswer]:
    """Make items available or not, for everyone."""
    return Call("POST", "v1/catalog/availability", ChangeAnswer, _with_lists({**options}, "available", "unavailable"))


def unavailable(limit: int) -> Call[AvailabilityAnswer]:
    """The items that are never recommended now."""
    return Call("GET", "v1/catalog/availability", AvailabilityAnswer, query={"limit": limit})


def columns() -> Call[list[ColumnAnswer]]:
    """The item columns that ``where`` can name."""
    return Call("GET", "v1/catalog/columns", list[ColumnAnswer])


def feedback(options: FeedbackOptions) -> Call[FeedbackAnswer]:
    """What people did with served items."""
    body: dict[str, Any] = {**options}
    if "events" in body:
        body["events"] = entries("events", body["events"])
    return Call("POST", "v1/feedback", FeedbackAnswer, body)


def items(query: str, limit: int) -> Call[list[ItemAnswer]]:
    """Titles that look like some words."""
    return Call("GET", "v1/items", list[ItemAnswer], query={"query": query, "limit": limit})


def ready() -> Call[dict[str, str]]:
    """Whether the model answers, and the name of its bundle."""
    return Call("GET", "readyz", dict[str, str])


def titles(name: str, values: Titles) -> list[str]:
    """Any iterable of titles and ids as what the server takes.

    Raises:
        UsageError: It is one text, or holds something that is neither a text nor a whole number.
    """
    return [_title(name, value) for value in entries(name, values)]


def entries(name: str, values: Any) -> list[Any]:
    """The entries of an iterable that is not one text.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is {values!r}, not a list", "put it in brackets: [...]")
    return list(values)


def _title(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return f"id:{operator.index(value)}"  # integers of numpy too
    except TypeError:
        pass
    raise UsageError(f"{name} holds {value!r}", 'give titles, "id:ITEM" or whole numbers')


def _with_lists(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return body | {name: titles(name, body[name]) for name in names if body.get(name) is not None}


def _session(session: str | None) -> dict[str, str]:
    return {} if session is None else {"session": session}
