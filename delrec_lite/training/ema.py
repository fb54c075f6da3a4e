"""A running mean of the weights over the steps: what it keeps is steadier than any one step's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class ExponentialMovingAverage:
    """Exponential moving average of parameters (Polyak averaging; Izmailov et al., arXiv 1803.05407, with a decay).

    Young means follow faster, so that the first values weigh nothing: the decay of step t is at most
    ``(1 + t) / (10 + t)``.

    Args:
        named: Parameters by name; their values now are the first mean.
        decay: Share of the mean that stays at each step; 0: the mean is the weights themselves.
    """

    def __init__(self, named: Mapping[str, Any], decay: float) -> None:
        self._named, self._decay = named, decay
        self.values = {name: p.detach().clone() for name, p in named.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step ``step``, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self.values.items():
            mean.lerp_(self._named[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold their means inside, and their own values again after."""
        own = {name: self._named[name].detach().clone() for name in self.values}
        self.put(self.values)
        try:
            yield
        finally:
            self.put(own)

    @torch.no_grad()
    def put(self, values: Mapping[str, Any]) -> None:
        """Write values into the parameters."""
        for name, value in values.items():
            self._named[name].copy_(value)
