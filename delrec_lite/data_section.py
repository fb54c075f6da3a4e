"""What the sections of a recipe share, and the section ``data``: which interactions, and how they are prepared."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from delrec_lite.errors import ConfigError
from delrec_lite.hub.registry import DATASETS
from delrec_lite.prompts.domain import DOMAINS, Domain, words_of


class Section(BaseModel):
    """A part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Keys that change how a result is computed, but not the result.
    runtime_only: ClassVar[frozenset[str]] = frozenset()
    # Keys added later: with their default value, older finished stages stay valid.
    default_compatible: ClassVar[frozenset[str]] = frozenset()

    def cache_key_fields(self) -> dict[str, Any]:
        """The keys that decide the result of a stage; its cache key is computed from them."""
        same = {key for key in self.default_compatible if getattr(self, key) == type(self).model_fields[key].default}
        return self.model_dump(mode="json", exclude={*self.runtime_only, *same})


class DataSection(Section):
    """Which interactions, and how they become sequences and candidate sets."""

    default_compatible: ClassVar[frozenset[str]] = frozenset(
        {"text_columns", "item_columns", "duplicates", "repeats", "verb"}
    )
    name: str = Field("ml-100k", description=f"a data set to pull: {', '.join(DATASETS.built_in)}")
    folder: str | None = Field(
        None,
        description="your own data, as `delrec-lite prepare` wrote it; the keys below and `name` are then those of "
        "the data set, and a recipe with another value is refused",
    )
    domain: str = Field("movie", description=f"what an item is: {', '.join(DOMAINS)}, or any noun with `verb`")
    verb: str | None = Field(
        None, description="what people have done with an item, such as read; null: the verb of `domain`"
    )
    k_core: int = Field(5, ge=1)
    candidates: int = Field(15, ge=2, description="m: one positive and m - 1 unseen negatives")
    seed: int = 2024
    split: Literal["leave-one-out", "chronological"] = Field(
        "leave-one-out", description="each user's last item is the test; or 8:1:1 by time, the same moments for all"
    )

    text_columns: tuple[str, ...] = Field(
        (), description="side text that is kept beside the titles for `model.item_text`; `genres` of ml-100k"
    )
    item_columns: tuple[str, ...] = Field(
        (),
        description="columns that the bundle keeps for filters (`where`), each maybe with its type, `price:number`; "
        "`genres` and `year` of ml-100k",
    )
    duplicates: Literal["keep", "first", "last", "consecutive"] = Field(
        "keep",
        description="of a user's interactions with one item: all, the first, the last, or one of several in a row",
    )
    repeats: bool | None = Field(
        None,
        description="whether an item that a user had before may be the next one; null: if that is usual in the log",
    )

    @property
    def words(self) -> Domain:
        """The words of prompts."""
        return words_of(self.domain, self.verb)

    @property
    def words_key(self) -> str | list[str]:
        """The part of a stage's key that decides the words."""
        return self.domain if self.verb is None else [self.domain, self.verb]

    @model_validator(mode="after")
    def _domain_has_words(self) -> "DataSection":
        try:
            words_of(self.domain, self.verb)
        except ConfigError as error:
            raise ValueError(f"{error.message}: {error.hint}") from error
        return self

    @model_validator(mode="after")
    def _can_be_pulled(self) -> "DataSection":
        if self.folder is None and self.name not in DATASETS:
            names = ", ".join(DATASETS.names())
            raise ValueError(
                f"name {self.name!r} is not a data set to pull: use one of {names}, or set folder to your own"
            )
        return self
