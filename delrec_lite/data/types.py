"""What every other room means by catalogue, sequence, split and candidate set.

Users and items are dense integers from 0 inside the program; their own ids are strings and kept beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Catalog:
    """The items that can be recommended.

    Attributes:
        ids: The data set's own item ids, one per item.
        titles: Readable titles, same order: ``The Matrix (1999)``.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: k-core filtered, each user's items in the order of time.

    Attributes:
        name: Its name in the registry, or the folder's name.
        catalog: The items.
        user_ids: The data set's own user ids, one per sequence.
        sequences: Item indices per user, oldest first; each int64 of shape ``[length]``, length >= 3.
        fingerprint: sha256 over everything above.
    """

    name: str
    catalog: Catalog
    user_ids: tuple[str, ...]
    sequences: tuple[Ints, ...]
    fingerprint: str

    def train(self) -> tuple[Ints, ...]:
        """Leave-one-out: every sequence without its last two items."""
        return tuple(s[:-2] for s in self.sequences)

    def popularity(self) -> Ints:
        """How often each item stands in the training part: ``[items]``."""
        return np.bincount(np.concatenate(self.train()), minlength=len(self.catalog))

    def valid(self) -> "Split":
        """Leave-one-out: the second-last item is the target, all before it the history."""
        return Split("valid", tuple(s[:-2] for s in self.sequences), np.array([s[-2] for s in self.sequences]))

    def test(self) -> "Split":
        """Leave-one-out: the last item is the target, all before it the history."""
        return Split("test", tuple(s[:-1] for s in self.sequences), np.array([s[-1] for s in self.sequences]))


@dataclass(frozen=True)
class Split:
    """One question per user: what comes after this history?

    Attributes:
        name: ``valid`` or ``test``.
        histories: Item indices, oldest first, one array per user.
        targets: The next item of each user, shape ``[users]``.
    """

    name: str
    histories: tuple[Ints, ...]
    targets: Ints

    def __len__(self) -> int:
        return len(self.histories)

    def take(self, users: Sequence[int]) -> "Split":
        """The same questions for some of the users only."""
        return Split(self.name, tuple(self.histories[u] for u in users), self.targets[list(users)])


@dataclass(frozen=True)
class CandidateSets:
    """The m candidates of every user of a split, the positive among them at a random place.

    Attributes:
        split: ``valid`` or ``test``.
        items: Item indices, shape ``[users, m]``.
        seed: What they were sampled with.
    """

    split: str
    items: Ints
    seed: int

    def take(self, users: Sequence[int]) -> "CandidateSets":
        """The sets of some of the users only."""
        return CandidateSets(self.split, self.items[list(users)], self.seed)
