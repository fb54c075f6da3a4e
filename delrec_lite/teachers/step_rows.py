"""Trains a network on a large catalogue: in a step it has only the items that the step reads, renumbered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from delrec_lite.data.types import Ints
from delrec_lite.softmax.negatives import Draw, NegativeSampler
from delrec_lite.softmax.rows import RowTable
from delrec_lite.teachers.contract import Network

ITEMS, OFFSETS, FEATURES = "items", "text_offsets", "text_features"


class StepRows:
    """The optimiser of a network's item vectors and of all else; from ``open`` to ``step`` the network is cut.

    Between the two it has the vectors of one step's items alone, so that states, scores and loss of any kind of network
    are computed as for a small catalogue. With item text these are the offsets, and the features are cut as well.

    Args:
        network: Untrained, on its device.
        rest: Optimiser of all other parameters.
        sampler: Draws the negatives.
    """

    def __init__(self, network: Network, rest: Any, sampler: NegativeSampler) -> None:
        self._network, self._rest, self._sampler = network, rest, sampler
        self._name = trained_vectors(network)
        self._whole = network._parameters[self._name]
        self._features = network._buffers.get(FEATURES)
        self._table = RowTable(self._whole)
        self._step = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the other parameters; the first one's rate is also that of the item vectors."""
        groups: list[dict[str, Any]] = self._rest.param_groups
        return groups

    def open(self, batch: Sequence[Ints]) -> list[Ints]:
        """Cut the network to the items of a batch and its negatives.

        Args:
            batch: Windows of item indices.

        Returns:
            The windows by the numbers that their items have now.
        """
        draw = self._sampler.at(self._step)
        items = np.unique(np.concatenate([*batch, draw.items]))
        self._table.open(torch.from_numpy(items).to(self._table.values.device))
        self._network._parameters[self._name] = self._table.rows
        if self._features is not None:
            self._network._buffers[FEATURES] = self._features[self._table.items]
        self._network.step_draw = Draw(np.searchsorted(items, draw.items), draw.log_weights)
        return [np.searchsorted(items, window) for window in batch]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of all other parameters; the rows of a step are new."""
        self._rest.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Train all parameters that have gradients, and give the network its catalogue back."""
        self._rest.step()
        self._table.step(self.param_groups[0]["lr"])
        self._network._parameters[self._name] = self._whole
        if self._features is not None:
            self._network._buffers[FEATURES] = self._features
        self._network.step_draw = None
        self._step += 1


def trained_vectors(network: nn.Module) -> str:
    """The name of the parameter that holds a network's item vectors, or their offsets from its text."""
    return OFFSETS if OFFSETS in network._parameters else ITEMS
