"""Types of a prepared data set: catalogue, sequences, splits and candidate sets.

Users and items are integers from 0 inside the program; the ids of the data set are strings, stored separately.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delrec_lite.data.columns import ItemColumn
from delrec_lite.data.sequences import MappedSequences, had_before, joined_blocks, lengths_of

SPLITS = ("valid", "test")
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Catalog:
    """The items that can be recommended.

    Attributes:
        ids: The item ids of the data set, one per item.
        titles: Readable titles, same order: ``The Matrix (1999)``.
        texts: Side text of each item, such as its category, same order; empty if the data set has none.
        columns: Typed columns of the item list, same order; training does not read them.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...] = ()
    columns: tuple[ItemColumn, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, items: Sequence[int]) -> "Catalog":
        """The catalogue of some items, in this order."""
        texts = tuple(self.texts[i] for i in items) if self.texts else ()
        columns = tuple(column.take(items) for column in self.columns)
        return Catalog(tuple(self.ids[i] for i in items), tuple(self.titles[i] for i in items), texts, columns)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Title and side text of each item."""
        return tuple(map(described, self.titles, self.texts)) if self.texts else self.titles


def described(title: str, text: str) -> str:
    """An item's title with its side text, which may be empty."""
    return f"{title}, {text}" if text else title


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: k-core filtered, the items of each user in order of time.

    Attributes:
        name: Its name in the registry, or the folder's name.
        catalog: The items.
        user_ids: The user ids of the data set, one per sequence.
        sequences: Item indices per user, oldest first; each int64 of shape ``[length]``, length >= 3.
        fingerprint: sha256 over all other attributes; candidate sets have their own.
        cuts: Where each sequence is split, int64 ``[users, 2]``: items before the first number are for training, items
            before the second for validation, the rest for the test. None: leave-one-out, where the last item of
            each user is the test and the second last the validation.
        repeats: Whether an item that a user had before may be the next one. If not, such an item is no question, and
            rankings leave out the items of a history.
        unasked: Indices of users without questions, because they have too few unseen items for a candidate set.
        asked: Indices of the users who were sampled for questions, ascending; None: nobody was left out.
    """

    name: str
    catalog: Catalog
    user_ids: tuple[str, ...]
    sequences: Sequence[Ints]
    fingerprint: str
    cuts: Ints | None = None
    repeats: bool = False
    unasked: tuple[int, ...] = ()
    asked: tuple[int, ...] | None = None

    @property
    def interactions(self) -> int:
        """How many there are."""
        return int(lengths_of(self.sequences).sum())

    def train(self) -> Sequence[Ints]:
        """The training part of every sequence; under a split by time it may be empty."""
        if isinstance(self.sequences, MappedSequences):
            return self.sequences.first(self.sequences.lengths - 2 if self.cuts is None else self.cuts[:, 0])
        if self.cuts is None:
            return tuple(s[:-2] for s in self.sequences)
        return tuple(s[:cut] for s, cut in zip(self.sequences, self.cuts[:, 0], strict=True))

    def popularity(self) -> Ints:
        """How often each item occurs in the training part: ``[items]``."""
        counts = np.zeros(len(self.catalog), dtype=np.int64)
        for _, items in joined_blocks(self.train()):
            counts += np.bincount(items, minlength=len(self.catalog))
        return counts

    def valid(self) -> "Split":
        """The validation part: each of its items is a target, and the user's items before it are the history."""
        return self._split("valid")

    def test(self) -> "Split":
        """The test part, likewise: at most one question per user under leave-one-out."""
        return self._split("test")

    def questions(self, split: str) -> Ints:
        """User and position of every target of a split: int64 ``[questions, 2]``, ordered by user.

        Without users of ``unasked`` or outside ``asked``; unless ``repeats``, without items that the user had before.
        """
        targets = self.targets(split)
        has_questions = np.full(len(self.sequences), self.asked is None)
        has_questions[list(self.asked or ())] = True
        has_questions[list(self.unasked)] = False
        targets = targets[has_questions[targets[:, 0]]]
        asked: Ints = targets if self.repeats else targets[~had_before(self.sequences, targets)]
        return asked

    def targets(self, split: str) -> Ints:
        """User and position of every item of a split that has a history, as ``questions``."""
        ends = lengths_of(self.sequences)
        cuts = np.stack([ends - 2, ends - 1], 1) if self.cuts is None else self.cuts
        first, last = (cuts[:, 0], cuts[:, 1]) if split == "valid" else (cuts[:, 1], ends)
        first = np.maximum(first, 1)  # the first item of a user has no history
        counts = np.maximum(last - first, 0)
        users = np.repeat(np.arange(len(ends)), counts)
        within = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([users, first[users] + within], 1)

    def _split(self, name: str) -> "Split":
        questions = self.questions(name).tolist()
        targets = np.array([self.sequences[user][position] for user, position in questions], dtype=np.int64)
        histories = tuple(self.sequences[user][:position] for user, position in questions)
        return Split(name, histories, targets, self.repeats)


@dataclass(frozen=True)
class Split:
    """Questions for the next item after a history. Under leave-one-out there is at most one per user, in user order.

    Attributes:
        name: ``valid`` or ``test``.
        histories: Item indices, oldest first, one array per question.
        targets: The next item of each, shape ``[questions]``.
        repeats: Whether items of a history may be next; if not, rankings leave them out.
    """

    name: str
    histories: tuple[Ints, ...]
    targets: Ints
    repeats: bool = False

    def __len__(self) -> int:
        return len(self.histories)

    def take(self, users: Sequence[int]) -> "Split":
        """The questions at the given positions."""
        histories = tuple(self.histories[u] for u in users)
        return Split(self.name, histories, self.targets[list(users)], self.repeats)


@dataclass(frozen=True)
class CandidateSets:
    """The m candidates of every question of a split, with the positive at a random position.

    Attributes:
        split: ``valid`` or ``test``.
        items: Item indices, shape ``[questions, m]``.
        seed: Random seed of the sampling.
    """

    split: str
    items: Ints
    seed: int

    @property
    def fingerprint(self) -> str:
        """sha256 over split, shape and items."""
        digest = hashlib.sha256(f"{self.split} {self.items.shape}".encode())
        digest.update(self.items.astype("<i8").tobytes())
        return digest.hexdigest()

    def take(self, users: Sequence[int]) -> "CandidateSets":
        """The candidate sets at the given positions."""
        return CandidateSets(self.split, self.items[list(users)], self.seed)


def subsample(count: int, about: int) -> range:
    """Evenly spaced positions of ``count``, from the first: at least ``about`` of them, fewer than twice as many."""
    return range(0, count, max(1, count // about))


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` evenly spaced positions of ``count``, from the first; all positions if there are no more."""
    return [n * count // most for n in range(most)] if count > most else list(range(count))
