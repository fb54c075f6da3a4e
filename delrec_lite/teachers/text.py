"""Item text in a teacher: its item vectors are a learned offset plus a linear map of text features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from delrec_lite.teachers.contract import Network


class _WithText(Network):
    """Mixed into the class of a network whose items have text: its ``items`` are computed at every read."""

    text_offsets: nn.Parameter
    text_features: Any
    text_map: nn.Linear
    shared: Any

    @property
    def items(self) -> Any:
        """The item vectors, float32 ``[items, hidden]``."""
        return self.text_offsets + self.text_map(self.text_features) if self.shared is None else self.shared


def add_text(network: Network, features: Any) -> None:
    """Give a network's items text, whatever its kind: reading ``network.items`` then gives offsets plus text.

    Args:
        network: Untrained; the map is initialised from torch's random state.
        features: Text features of its items, float32 ``[items, d]``.
    """
    offsets = network.items
    del network.items
    network.__class__ = type(type(network).__name__, (_WithText, type(network)), {})
    network.text_offsets, network.shared = offsets, None
    network.register_buffer("text_features", features, persistent=False)
    network.text_map = nn.Linear(features.shape[1], offsets.shape[1], bias=False)


@contextmanager
def shared_vectors(network: Network) -> Iterator[None]:
    """In a ``with`` block of this, reads of a network's item vectors compute them once; nothing may change them."""
    if not isinstance(network, _WithText):
        yield
        return
    network.shared = network.items
    try:
        yield
    finally:
        network.shared = None


@torch.no_grad()
def bake_text(network: Network) -> None:
    """Make the sums the network's item vectors, so that whoever uses it needs no text."""
    vectors = network.items
    network.__class__ = type(network).__bases__[1]
    for name in ("text_offsets", "text_features", "text_map", "shared"):
        delattr(network, name)
    network.items = nn.Parameter(vectors)
