"""Finds the items that a request names; what the catalogue lacks is skipped and named, or refused."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.runtime.arguments import title_of, titles_in
from delrec_lite.runtime.matching import Match, Matcher, normal

# What happens to ids and titles that the catalogue lacks.
OnUnknown = Literal["skip", "refuse"]
# An item's index in the catalogue, or the words of a new item.
Item = int | str


@dataclass(frozen=True)
class Skipped:
    """Something that a request names and the catalogue lacks, or that is not available.

    Attributes:
        given: As typed.
        where: ``history``, ``candidates`` or ``exclude``.
        reason: Why it was skipped.
    """

    given: str
    where: str
    reason: str


@dataclass(frozen=True)
class Resolved:
    """The items that a request names, in its order.

    Attributes:
        items: Of the catalogue, and new ones.
        matched: The item found for each.
        skipped: The rest.
    """

    items: list[Item] = field(default_factory=list)
    matched: list[Match] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def indices(self) -> list[int]:
        """The items of the catalogue."""
        return [item for item in self.items if isinstance(item, int)]


def resolve(
    matcher: Matcher, values: Any, where: str, allow_new: bool = False, on_unknown: OnUnknown = "skip"
) -> Resolved:
    """The items that titles and ids name.

    Args:
        matcher: Of the catalogue.
        values: Titles, ``id:<item id>`` or ids that are numbers: a list or any other series.
        where: Name of the argument.
        allow_new: An unknown title becomes a new item.
        on_unknown: ``skip`` or ``refuse`` what is unknown.

    Raises:
        UsageError: The argument is no such list; with ``refuse``: something is unknown.
    """
    check_policy(on_unknown)
    resolved = Resolved()
    listed = "history" if where.startswith("histor") else where.partition("[")[0]  # without its place in a batch
    for value in titles_in(values, where, ordered=where.startswith("histor")):
        text = _text_of(matcher, value, where)
        match = matcher.look_up(text)
        if match is None and allow_new and text.strip() and not text.startswith("id:"):
            match = Match(text, -1, text)
        if match is not None:
            resolved.items.append(match.item if match.item >= 0 else text.strip())
            resolved.matched.append(match)
        elif on_unknown == "refuse":
            raise matcher.unknown(text)
        else:
            resolved.skipped.append(Skipped(text, listed, matcher.reason(text)))
    return resolved


def resolve_one(matcher: Matcher, value: Any, where: str) -> Match:
    """The item that one title or id names.

    Raises:
        UsageError: There is none; names the nearest.
    """
    return matcher.find(_text_of(matcher, title_of(value, where), where))


def check_policy(on_unknown: str) -> OnUnknown:
    """The policy of this name.

    Raises:
        UsageError: It is neither ``skip`` nor ``refuse``.
    """
    if on_unknown not in get_args(OnUnknown):
        raise UsageError(f"on_unknown is {on_unknown!r}", did_you_mean(str(on_unknown), get_args(OnUnknown)))
    return on_unknown  # type: ignore[return-value]


def key_of(item: Item) -> Item:
    """Equal for an item however it is spelled."""
    return item if isinstance(item, int) else normal(item) or item


def _text_of(matcher: Matcher, value: str | int, where: str) -> str:
    return value if isinstance(value, str) else matcher.text_of_id(value, where)
