"""Schemas of requests and answers: typed, bounded, no unknown fields."""

from typing import Annotated, Literal, Self

from fastapi import Header
from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as F

Title = Annotated[str, StringConstraints(min_length=1, max_length=500)]
History = Annotated[list[Title], F(max_length=1000, description="Titles or `id:ITEM`, oldest first; may be empty.")]
OnUnknown = Annotated[
    Literal["skip", "refuse"], F(description="Skip, and name in the answer, what the catalogue lacks; or refuse it.")
]
ExcludeHistory = Annotated[
    bool | None,
    F(description="Leave out the history. Default: of the catalogue, unless repeats count."),
]
K = Annotated[int, F(ge=1, le=1000, description="How many to return.")]
Candidates = Annotated[list[Title], F(min_length=1, max_length=2000, description="Rank only these.")]
Where = Annotated[
    str,
    F(
        max_length=4000,
        description='Recommend only what this filter over item columns keeps: `category = "toys" and price < 20`.',
    ),
]
Diversity = Annotated[
    float, F(ge=0, le=1, description="How much less an item counts that is like one before it; 0: off.")
]
Discount = Annotated[float, F(ge=0, le=1000, description="How much less a popular item counts; 0: off.")]
Excluded = Annotated[list[Title], F(max_length=2000, description="Never recommend these.")]
SessionHeader = Annotated[
    str | None, Header(max_length=128, description="As `session`, which counts where both are given.")
]


WordsText = Annotated[
    str,
    StringConstraints(max_length=500),
    F(description="What is wanted, such as `space adventure, not for children`; beside a history or alone."),
]
WordsWeight = Annotated[
    float | None, F(ge=0, le=100, description="Of the words. Default: what validation users chose.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendBody(_Body):
    """One user's history, and the items to rank."""

    history: History
    k: K = 10
    candidates: Candidates | None = None
    exclude: Excluded = []
    exclude_history: ExcludeHistory = None
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    allow_new: bool = False
    on_unknown: OnUnknown = "skip"
    where: Where | None = None
    diversity: Diversity = 0.0
    popularity_discount: Discount = 0.0
    words: WordsText | None = None
    words_weight: WordsWeight = None


class BatchBody(_Body):
    """Many users' histories; ``candidates``, ``exclude`` and ``words`` hold one entry for each, or nothing.

    All other fields are for all of them.
    """

    histories: Annotated[list[History], F(min_length=1, max_length=1000)]
    k: K = 10
    candidates: Annotated[list[Candidates | None], F(max_length=1000, description="null: the whole catalogue.")] = []
    exclude: Annotated[list[Excluded], F(max_length=1000)] = []
    exclude_history: ExcludeHistory = None
    allow_new: bool = False
    on_unknown: OnUnknown = "skip"
    where: Where | None = None
    diversity: Diversity = 0.0
    popularity_discount: Discount = 0.0
    words: Annotated[list[WordsText | None], F(max_length=1000, description="null: no words.")] = []
    words_weight: WordsWeight = None

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        for name in ("candidates", "exclude", "words"):
            entries = len(getattr(self, name))
            if entries not in (0, len(self.histories)):
                raise ValueError(f"{name} has {entries} entries for {len(self.histories)} histories")
        return self


class TeacherBody(_Body):
    """One user's history, for the teacher."""

    history: History
    k: K = 10
    on_unknown: OnUnknown = "skip"
    where: Where | None = None


class ExplainBody(_Body):
    """One user's history, and the item to explain; by default the first recommendation."""

    history: History
    item: Title | None = None
    allow_new: bool = False
    on_unknown: OnUnknown = "skip"
    words: WordsText | None = None


class RankedItem(BaseModel):
    """One recommended item."""

    rank: int
    id: str
    title: str
    score: float
    probability: float


class MatchedTitle(BaseModel):
    """The item that a given title means; item -1 is a new one."""

    given: str
    item: int
    title: str
    others: list[str]


class SkippedTitle(BaseModel):
    """Something that the catalogue lacks or that is not available; `where` names the list that it was left out of."""

    given: str
    where: str
    reason: str


class WordsReadAnswer(BaseModel):
    """What was understood of a request's words; `unknown` ones count for nothing."""

    given: str
    used: list[str]
    avoided: list[str]
    unknown: list[str]
    weight: float


class RecommendAnswer(BaseModel):
    """Best first; `basis` is `model`; after no known history, `words` or `popularity`; `bundle` ranked."""

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


class TeacherAnswer(BaseModel):
    """The teacher's ranking, best first."""

    kinds: list[str]
    items: list[RankedItem]
    skipped: list[SkippedTitle]


class BatchAnswer(BaseModel):
    """One ranking for each history, with what it skipped and its basis as in a single answer."""

    request_id: str
    answers: list[list[RankedItem]]
    skipped: list[list[SkippedTitle]]
    basis: list[str]
    words: list[WordsReadAnswer | None]
    bundle: str


class ContributionAnswer(BaseModel):
    """How much one history item adds to the log-probability."""

    title: str
    weight: float
    read: bool


class OpinionAnswer(BaseModel):
    """The teacher's ranking after the same history."""

    kinds: list[str]
    rank: int
    probability: float
    first: str
    agrees: bool
    shared: float


class WordAnswer(BaseModel):
    """How much one word adds to the log-probability, and the word of the item's text that is nearest to it."""

    word: str
    negated: bool
    weight: float
    nearest: str


class WordsExplainedAnswer(BaseModel):
    """Which words matter, and the titles of the items whose texts fit them best."""

    read: WordsReadAnswer
    contributions: list[WordAnswer]
    fitting: list[str]


class ExplainAnswer(BaseModel):
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


class ItemAnswer(BaseModel):
    """An item of the catalogue."""

    id: str
    title: str


class Failure(BaseModel):
    """What is wrong, and what to do."""

    error: str
    hint: str
