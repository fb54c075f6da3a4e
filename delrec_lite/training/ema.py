"""A running mean of the weights over the steps: it varies less than the weights of a single step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class ExponentialMovingAverage:
    """Exponential moving average of parameters (Polyak averaging; Izmailov et al., arXiv 1803.05407, with a decay).

    In the first steps the decay is smaller, so that the initial values soon count for nothing: in step t it is at most
    ``(1 + t) / (10 + t)``.

    Args:
        named: Parameters by name; their current values are the first mean.
        decay: Share of the old mean in the new one; 0: no mean is computed.
    """

    def __init__(self, named: Mapping[str, Any], decay: float) -> None:
        self._named, self._decay = named, decay
        self.values = {name: p.detach().clone() for name, p in named.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call it after the optimiser's step ``step``, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self.values.items():
            mean.lerp_(self._named[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the ``with`` the parameters hold their means; afterwards their own values again."""
        current_values = {name: self._named[name].detach().clone() for name in self.values}
        self.write(self.values)
        try:
            yield
        finally:
            self.write(current_values)

    @torch.no_grad()
    def write(self, values: Mapping[str, Any]) -> None:
        """Write values into the parameters."""
        for name, value in values.items():
            self._named[name].copy_(value)
