"""What an update trains on: the new interactions after some of their history, and random windows of old ones."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from delrec_lite.data.types import Dataset, Ints
from delrec_lite.data.windows import windows

# Items before the first new one that a window reads, at least; with more new items as many as these. They are trained
# again, so they count as replay.
CONTEXT = 10


@dataclass(frozen=True)
class Mixture(Dataset):
    """A data set whose training part is replaced.

    Attributes:
        parts: The sequences to train on.
    """

    parts: tuple[Ints, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, parts: Sequence[Ints]) -> "Mixture":
        """The data set with other sequences to train on."""
        return cls(**{field.name: getattr(dataset, field.name) for field in fields(Dataset)}, parts=tuple(parts))

    def train(self) -> Sequence[Ints]:
        """The mixed sequences."""
        return self.parts

    @property
    def steps(self) -> int:
        """Steps from one item to the next in the training part."""
        return sum(len(part) - 1 for part in self.parts)


@dataclass(frozen=True)
class NewPart:
    """What an update adds to a user's training part.

    Attributes:
        sequence: The training part now.
        first: Index of the first item that was not there before; all before it was trained.
    """

    sequence: Ints
    first: int

    @property
    def new_steps(self) -> int:
        """Steps to a new item."""
        return max(0, len(self.sequence) - max(self.first, 1))

    def window(self) -> Ints:
        """The new items after the newest old ones."""
        return self.sequence[max(0, self.first - max(CONTEXT, len(self.sequence) - self.first)) :]


def new_parts(old: Dataset, new: Dataset) -> list[NewPart]:
    """What each user's training part gains; users of ``old`` have the same numbers in ``new``."""
    before, parts = old.train(), []
    for user, sequence in enumerate(new.train()):
        known = before[user] if user < len(before) else sequence[:0]
        common = min(len(known), len(sequence))
        differs = np.flatnonzero(known[:common] != sequence[:common])
        parts.append(NewPart(sequence, int(differs[0]) if len(differs) else common))
    return parts


def mix(parts: Sequence[NewPart], passes: float, replay: float, length: int, seed: int) -> list[Ints]:
    """Sequences with every new step once a pass, and so many old steps that they are a share of all.

    Args:
        parts: Of all users.
        passes: Over the new steps; of a part of a pass, some users.
        replay: The share of old steps.
        length: Largest number of steps of a window of old ones.
        seed: Decides what is drawn.
    """
    rng = np.random.default_rng([seed, len(parts)])
    gaining = [part for part in parts if part.new_steps]
    mixed: list[Ints] = []
    fresh = 0
    for at in range(int(np.ceil(passes))):
        share = min(1.0, passes - at)
        order = rng.permutation(len(gaining))[: max(1, round(share * len(gaining)))] if gaining else ()
        for n in order:
            mixed.append(gaining[n].window())
            fresh += gaining[n].new_steps
    missing = round(fresh * replay / (1 - replay)) - (sum(len(window) - 1 for window in mixed) - fresh)
    trained = [part.sequence[: part.first] for part in parts]
    while missing > 0 and fresh:
        pool = windows(trained, length, rng)
        if not pool:
            break
        for n in rng.permutation(len(pool)):
            if missing <= 0:
                break
            mixed.append(pool[n])
            missing -= len(pool[n]) - 1
    return mixed
