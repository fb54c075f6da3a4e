"""Several teachers as one: the mean of their distributions, and their concatenated item vectors."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.data.types import Floats, Ints
from delrec_lite.teachers.contract import Teacher


class Scorer(Protocol):
    """A part of the target: a teacher, an ensemble, or a trained model."""

    items: int

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """See ``Teacher.scores``."""

    def sequence_scores_many(self, sequences: Sequence[Ints]) -> list[Floats]:
        """See ``Teacher.sequence_scores_many``."""


class Mixture:
    """Scores of the target in training: the logarithm of its members' mean probability of each item.

    Args:
        members: Of the same catalogue, at least one.
    """

    def __init__(self, members: Sequence[Scorer]) -> None:
        self._members = tuple(members)
        self.items = members[0].items

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """See ``Teacher.scores``."""
        return _mixture([member.scores(histories) for member in self._members])

    def sequence_scores_many(self, sequences: Sequence[Ints]) -> list[Floats]:
        """See ``Teacher.sequence_scores_many``."""
        scores_by_member = [member.sequence_scores_many(sequences) for member in self._members]
        return [_mixture(member_scores) for member_scores in zip(*scores_by_member, strict=True)]


class Ensemble(Mixture):
    """Fitted teachers, which score like a single ``Teacher``.

    Args:
        members: Fitted on the same data set, at least one.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__(members)
        self.members = tuple(members)

    @contextmanager
    def dropping_out(self) -> Iterator[None]:
        """See ``Teacher.dropping_out``."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.dropping_out())
            yield

    def item_vectors(self) -> Floats:
        """The members' item vectors, with equal mean norms, concatenated: float32 ``[items, sum of widths]``."""
        parts = []
        for member in self.members:
            vectors = member.item_vectors()
            norm = np.linalg.norm(vectors - vectors.mean(0), axis=1).mean()
            parts.append(vectors / np.float32(norm))
        return np.concatenate(parts, axis=1)


def _mixture(scores: Sequence[Floats]) -> Floats:
    logs = torch.stack([F.log_softmax(torch.from_numpy(s), 1) for s in scores])
    mixed: Floats = (torch.logsumexp(logs, 0) - np.log(len(scores))).numpy()
    return mixed
