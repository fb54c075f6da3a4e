"""The server's answers as dataclasses, each with name and fields of its schema in the OpenAPI document."""

from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RankedItem:
    """One recommended item."""

    rank: int
    id: str
    title: str
    score: float
    probability: float


@dataclass(frozen=True)
class MatchedTitle:
    """The item that a given title means; item -1 is a new one."""

    given: str
    item: int
    title: str
    others: list[str]


@dataclass(frozen=True)
class SkippedTitle:
    """Something that the catalogue lacks; ``where`` names the list that it was left out of."""

    given: str
    where: str
    reason: str


@dataclass(frozen=True)
class WordsReadAnswer:
    """What was understood of a request's words; ``unknown`` ones count for nothing."""

    given: str
    used: list[str]
    avoided: list[str]
    unknown: list[str]
    weight: float


@dataclass(frozen=True)
class WordAnswer:
    """How much one word adds to the log-probability, and the word of the item's text that is nearest to it."""

    word: str
    negated: bool
    weight: float
    nearest: str


@dataclass(frozen=True)
class WordsExplainedAnswer:
    """Which words matter, and the titles of the items whose texts fit them best."""

    read: WordsReadAnswer
    contributions: list[WordAnswer]
    fitting: list[str]


@dataclass(frozen=True)
class RecommendAnswer:
    """Best first; ``basis`` says what ranked: the model, or words or popularity where no history is known."""

    request_id: str
    items: list[RankedItem]
    matched: list[MatchedTitle]
    skipped: list[SkippedTitle]
    basis: str
    milliseconds: dict[str, float]
    tokens_computed: int
    tokens_avoided: int
    words: WordsReadAnswer | None
    bundle: str


@dataclass(frozen=True)
class BatchAnswer:
    """One ranking for each history, with what it skipped and its basis."""

    request_id: str
    answers: list[list[RankedItem]]
    skipped: list[list[SkippedTitle]]
    basis: list[str]
    words: list[WordsReadAnswer | None]
    bundle: str


@dataclass(frozen=True)
class TeacherAnswer:
    """The teacher's ranking, best first."""

    kinds: list[str]
    items: list[RankedItem]
    skipped: list[SkippedTitle]


@dataclass(frozen=True)
class ContributionAnswer:
    """How much one history item adds to the log-probability."""

    title: str
    weight: float
    read: bool


@dataclass(frozen=True)
class OpinionAnswer:
    """The teacher's ranking after the same history."""

    kinds: list[str]
    rank: int
    probability: float
    first: str
    agrees: bool
    shared: float


@dataclass(frozen=True)
class ExplainAnswer:
    """How an item's rank came about."""

    id: str
    title: str
    rank: int
    probability: float
    contributions: list[ContributionAnswer]
    teacher: OpinionAnswer | None
    skipped: list[SkippedTitle]
    soft_words: list[list[str]]
    milliseconds: float
    words: WordsExplainedAnswer | None


@dataclass(frozen=True)
class ItemAnswer:
    """An item of the catalogue."""

    id: str
    title: str


@dataclass(frozen=True)
class ChangeAnswer:
    """How many items changed, what named none, how many are not available now, and whether a restart keeps that."""

    changed: int
    skipped: list[SkippedTitle]
    count: int
    kept: bool


@dataclass(frozen=True)
class NamedItem:
    """An item that is not available."""

    id: str
    title: str


@dataclass(frozen=True)
class AvailabilityAnswer:
    """The items that are not available, ``count`` of ``items``, and changed ids that this bundle does not have."""

    unavailable: list[NamedItem]
    count: int
    items: int
    vanished: list[str]
    kept: bool


@dataclass(frozen=True)
class ColumnAnswer:
    """An item column with its values or their range; ``missing`` counts the items without one."""

    name: str
    kind: str
    missing: int
    values: dict[str, int] | None = None
    different: int | None = None
    true: int | None = None
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class RefusedEvent:
    """An event that was not stored; ``index`` is its place in ``events``."""

    index: int
    request_id: str
    item: str
    reason: str


@dataclass(frozen=True)
class FeedbackAnswer:
    """What was stored, durably: new events, and events that were there already."""

    accepted: int
    duplicates: int
    refused: list[RefusedEvent]


def read(kind: type[Answer], value: Any) -> Answer:
    """JSON as a dataclass, a list of them, or what it is; fields that ``kind`` does not know are left out.

    Raises:
        ValueError: A field is missing, or something else stands where an object or a list belongs.
    """
    built: Answer = _read(kind, value)
    return built


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{kind.__name__} is not an object")
        known = _fields(kind)
        missing = [name for name, (_, required) in known.items() if required and name not in value]
        if missing:
            raise ValueError(f"{kind.__name__} has no {missing[0]}")
        return kind(**{name: _read(of, value[name]) for name, (of, _) in known.items() if name in value})
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise ValueError("something is not a list")
        return [_read(get_args(kind)[0], entry) for entry in value]
    if get_origin(kind) is UnionType:
        (of,) = (option for option in get_args(kind) if option is not NoneType)
        return None if value is None else _read(of, value)
    return value


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether an answer must have it."""
    hints = get_type_hints(kind)
    return {f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)}
