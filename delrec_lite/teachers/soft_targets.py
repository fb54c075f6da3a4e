"""What teachers know after every item of windows, for any items asked: no matrix of the catalogue is kept."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from delrec_lite.data.types import Ints
from delrec_lite.softmax.parts import block_ends, block_size
from delrec_lite.softmax.sampled import Sample
from delrec_lite.teachers.contract import Network, Teacher
from delrec_lite.teachers.ensemble import Ensemble


class SoftTargets:
    """A teacher's distribution after each item of windows, in the blocks or the sample of a student's softmax.

    Args:
        teacher: One, or an ensemble, whose members' probabilities are averaged.
        sequences: Windows of item indices.
        temperature: Softens the distribution.
        device: Of what is returned; the teacher computes on its own.
    """

    def __init__(
        self, teacher: Teacher | Ensemble, sequences: Sequence[Ints], temperature: float, device: Any = "cpu"
    ) -> None:
        members = teacher.members if isinstance(teacher, Ensemble) else (teacher,)
        self._networks = [member.network for member in members]
        self._states = [m.sequence_states(sequences).to(m.network.items.device) for m in members]
        self._items, self._temperature, self._device = teacher.items, temperature, device

    @torch.no_grad()
    def log_probs(self, start: int, end: int) -> Any:
        """Of the items ``start`` to ``end``: float32 ``[n, end - start]``."""
        return (self._scores(torch.arange(start, end)) - self._normaliser).to(self._device)

    @torch.no_grad()
    def of(self, items: Any) -> Any:
        """Log-probability of one item at each position: int64 ``[n]`` to float32 ``[n]``."""
        once, places = items.cpu().unique(return_inverse=True)
        scores = self._scores(once)
        chosen = scores.gather(1, places[:, None].to(scores.device)) - self._normaliser
        return chosen[:, 0].to(self._device)

    @torch.no_grad()
    def first(self) -> Any:
        """The most likely item at each position: int64 ``[n]``."""
        best = [self._scores(torch.arange(*ends)).max(1) for ends in self._blocks]
        scores = torch.stack([block.values for block in best])
        places = torch.stack([block.indices + start for block, (start, _) in zip(best, self._blocks, strict=True)])
        return places.gather(0, scores.argmax(0)[None])[0].to(self._device)

    @torch.no_grad()
    def sampled(self, sample: Sample) -> Any:
        """Estimated log-probabilities with the sample's weights, its targets first: float32 ``[n, 1 + m]``."""
        by_member = [scores.to(self._device) for scores in self._member_scores(sample.items.cpu())]
        if len(by_member) > 1:
            by_member = [s - sample.logits_of(s).logsumexp(1, keepdim=True) for s in by_member]
        return F.log_softmax(sample.logits_of(self._mixed(by_member)), 1)

    def _scores(self, items: Any) -> Any:
        """Scores of items: float32 ``[n, k]``; their softmax over the catalogue is the distribution."""
        by_member = self._member_scores(items)
        if len(by_member) > 1:
            by_member = [s - n for s, n in zip(by_member, self._member_normalisers, strict=True)]
        return self._mixed(by_member)

    def _mixed(self, by_member: Sequence[Any]) -> Any:
        if len(by_member) == 1:
            return by_member[0] / self._temperature
        return (torch.stack(list(by_member)).logsumexp(0) - math.log(len(by_member))) / self._temperature

    def _member_scores(self, items: Any) -> list[Any]:
        scores = []
        for network, states in zip(self._networks, self._states, strict=True):
            with cut_to(network, items):
                scores.append(network.scores(states))
        return scores

    @cached_property
    def _member_normalisers(self) -> list[Any]:
        """Log-sum-exp of each member's scores, float32 ``[n, 1]``."""
        blocks = [
            [s.logsumexp(1, keepdim=True) for s in self._member_scores(torch.arange(*ends))] for ends in self._blocks
        ]
        return [torch.cat(parts, 1).logsumexp(1, keepdim=True) for parts in zip(*blocks, strict=True)]

    @cached_property
    def _normaliser(self) -> Any:
        parts = [self._scores(torch.arange(*ends)).logsumexp(1, keepdim=True) for ends in self._blocks]
        return torch.cat(parts, 1).logsumexp(1, keepdim=True)

    @property
    def _blocks(self) -> Iterator[tuple[int, int]]:
        return block_ends(self._items, block_size(len(self._states[0])))


@contextmanager
def cut_to(network: Network, items: Any) -> Iterator[None]:
    """In a ``with`` block of this, a fitted network scores some items alone.

    Args:
        network: Without item text.
        items: Item indices, int64 ``[k]``.
    """
    whole = network.items
    network.items = nn.Parameter(whole.detach()[items.to(whole.device)], requires_grad=False)
    try:
        yield
    finally:
        network.items = whole
