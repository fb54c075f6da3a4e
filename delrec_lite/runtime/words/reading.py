"""`Words`: reads the words of a request, finds the items whose texts they fit, and mixes both with a ranking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, described
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.evaluation.best import best
from delrec_lite.evaluation.fusion import logsumexp
from delrec_lite.runtime.arguments import values_in
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import MANIFEST, REMEDY
from delrec_lite.runtime.resolving import Item
from delrec_lite.runtime.words.table import FILE, WordTable
from delrec_lite.runtime.words.text import Asked, asked_in

# Keys of the manifest's ``model``: the weights that validation users chose, beside a history and beside popularity.
WEIGHT, WEIGHT_ALONE = "words_weight", "words_weight_alone"
MOST_WEIGHT = 100.0
FITTING = 5  # titles of an explanation


@dataclass(frozen=True)
class WordsRead:
    """What was understood of a request's words.

    Attributes:
        given: As typed.
        used: Words that items should fit.
        avoided: Words that they should not fit, those behind "not".
        unknown: Words that the bundle has no vector of; they count for nothing.
        weight: Of the words, against the ranking without them.
    """

    given: str
    used: list[str]
    avoided: list[str]
    unknown: list[str]
    weight: float


@dataclass(frozen=True)
class WordContribution:
    """What one word of a request does to an item.

    Attributes:
        word: As read.
        negated: It stands behind a "not".
        weight: How much the item's log-probability falls without it, nats; below 0: it rises.
        nearest: The word of the item's text that comes nearest to it.
    """

    word: str
    negated: bool
    weight: float
    nearest: str


@dataclass(frozen=True)
class WordsExplained:
    """What the words of a request do.

    Attributes:
        read: What was understood.
        contributions: One for each word that counts.
        fitting: Titles of the items whose texts fit the words best, best first.
    """

    read: WordsRead
    contributions: list[WordContribution]
    fitting: list[str]


@dataclass(frozen=True)
class Worded:
    """The words of a request, ready to rank.

    Attributes:
        read: What was understood.
        asked: The words that have a vector.
        fit: How well each item's text fits them all, mean 0 and standard deviation 1: float32 ``[items]``.
        by_word: How near each item's text comes to each of them, float32 ``[words, items]``.
    """

    read: WordsRead
    asked: list[Asked]
    fit: Floats
    by_word: Floats

    def mixed(self, scores: Floats, fit: Floats | None = None) -> Floats:
        """Log-probabilities with the words: those of the scores, and the fit times its weight.

        Args:
            scores: Of a ranking without words, float32 ``[..., items]``.
            fit: Of what is ranked, in its order; default: of the catalogue.
        """
        if not self.asked:
            return scores
        rows = np.atleast_2d(scores)
        mixed: Floats = rows - logsumexp(rows) + np.float32(self.read.weight) * (self.fit if fit is None else fit)
        return mixed.reshape(scores.shape).astype(np.float32)

    def without(self, n: int) -> "Worded":
        """The same request without its n-th word."""
        asked = self.asked[:n] + self.asked[n + 1 :]
        by_word = np.delete(self.by_word, n, axis=0)
        return Worded(self.read, asked, fit_of(asked, by_word, by_word), by_word)


def fit_of(asked: Sequence[Asked], by_word: Floats, of: Floats) -> Floats:
    """How well texts fit words: the sum over the words, those to avoid subtracted, in units of the catalogue's spread.

    Args:
        asked: The words.
        by_word: Of the catalogue, see ``Worded``.
        of: The same of the texts in question, float32 ``[words, n]``.

    Returns:
        float32 ``[n]``.
    """
    signs = np.array([-1 if word.negated else 1 for word in asked], np.float32)
    catalogue, sums = signs @ by_word, signs @ of
    spread = float(catalogue.std())
    fit: Floats = (sums - catalogue.mean()) / spread if spread > 1e-6 else np.zeros_like(sums)
    return fit


class Words:
    """Words of requests to one bundle.

    Args:
        bundle: Opened.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @property
    def in_bundle(self) -> bool:
        """Whether the bundle can read words."""
        return FILE in self._bundle.manifest["files"]

    @cached_property
    def table(self) -> WordTable:
        """The bundle's words, with the items that were added after training.

        Raises:
            UsageError: The bundle has none.
            BundleError: They cannot be read.
        """
        if not self.in_bundle:
            raise UsageError(
                "this bundle was exported before requests could have words", "export the run again with this version"
            )
        bundle = self._bundle
        table = WordTable.load(bundle.folder / FILE, bundle.trained)
        added = zip(bundle.items.titles[bundle.trained :], bundle.added_texts, strict=True)
        return table.with_items([described(title, text) for title, text in added])

    def read(self, text: Any, weight: Any = None, alone: bool = False) -> Worded | None:
        """Read the words of a request; None where there are none.

        Args:
            text: The words; a "not" negates those behind it, up to the next comma.
            weight: Of the words, 0 to 100; default: the one that validation users chose.
            alone: There is no history.

        Raises:
            UsageError: No text, a weight out of range, or a bundle that cannot read words.
        """
        if text is None or (isinstance(text, str) and not text.strip()):
            return None
        if not isinstance(text, str):
            raise UsageError(
                f"words is of type {type(text).__name__}, not a text", 'give one text: "a space adventure"'
            )
        table = self.table  # its errors come first
        weight = self.weight(alone) if weight is None else _checked(weight)
        found = [(word, table.find(word.word)) for word in asked_in(text)]
        asked = [word for word, index in found if index is not None]
        by_word = table.similarity([index for _, index in found if index is not None])
        read = WordsRead(
            text,
            [word.word for word in asked if not word.negated],
            [word.word for word in asked if word.negated],
            [word.word for word, index in found if index is None],
            weight,
        )
        return Worded(read, asked, fit_of(asked, by_word, by_word), by_word)

    def preload(self) -> None:
        """Read now what a request with words reads later; nothing in a bundle that has no words."""
        if self.in_bundle:
            self.read("a new title", 1.0)

    def mixed(self, worded: Worded | None, scores: Floats, pool: Sequence[Item] | None = None) -> Floats:
        """The scores of a request with its words; without words they are what they were.

        Args:
            worded: The words.
            scores: Of the catalogue, or of ``pool``.
            pool: Candidates: indices of the catalogue, and titles of new items.
        """
        if worded is None or not worded.asked or not len(scores):
            return scores
        if pool is None:
            return worded.mixed(scores)
        new = [item for item in pool if isinstance(item, str)]
        of_new = dict(zip(new, self._fit_of_titles(worded, new), strict=True))
        fit = [of_new[item] if isinstance(item, str) else worded.fit[item] for item in pool]
        return worded.mixed(scores, np.array(fit, np.float32))

    def explained(self, worded: Worded, scores: Floats, item: int) -> WordsExplained:
        """What the words do to an item's log-probability, whose scores without words are float32 ``[items]``."""

        def log_probability(some: Worded) -> float:
            mixed = some.mixed(scores)
            return float(mixed[item] - logsumexp(mixed[None])[0, 0])

        with_all = log_probability(worded)
        contributions = [
            WordContribution(
                word.word,
                word.negated,
                with_all - log_probability(worded.without(n)),
                self.table.nearest(self.table.index_of(word.word), item),
            )
            for n, word in enumerate(worded.asked)
        ]
        fitting = best(worded.fit, FITTING) if worded.asked else ()
        return WordsExplained(worded.read, contributions, [self._bundle.items.titles[i] for i in fitting])

    def _fit_of_titles(self, worded: Worded, titles: Sequence[str]) -> Floats:
        """How well the titles of items outside the catalogue fit, in the units of ``Worded.fit``."""
        of_titles = self.table.of_items(titles)
        by_word = of_titles.similarity([self.table.index_of(word.word) for word in worded.asked])
        return fit_of(worded.asked, worded.by_word, by_word)

    def weight(self, alone: bool) -> float:
        """The weight that validation users chose.

        Raises:
            BundleError: The manifest has none.
        """
        key = WEIGHT_ALONE if alone else WEIGHT
        weight = self._bundle.manifest["model"].get(key)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MOST_WEIGHT:
            raise BundleError(f"{self._bundle.folder / MANIFEST}: {key} is {weight!r}, no number from 0 to 100", REMEDY)
        return float(weight)


def _checked(weight: Any) -> float:
    try:
        number = math.nan if isinstance(weight, bool | str) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= MOST_WEIGHT:
        raise UsageError(f"words_weight is {weight!r}", f"give a number from 0 to {MOST_WEIGHT:.0f}")
    return number


def one_for_each(texts: Any, count: int) -> list[Any]:
    """The words of several requests: one text, or None, for each of ``count`` histories.

    Raises:
        UsageError: There are more or fewer.
    """
    if texts is None:
        return [None] * count
    given = values_in(texts, "words", ordered=True)
    if len(given) != count:
        raise UsageError(f"words has {len(given)} entries for {count} histories", "give one for each, or none")
    return given
