"""Caser (Tang and Wang, 2018, arXiv 1809.07426): convolutions over the vectors of the last L items."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from delrec_lite.teacher_kinds.built_in.caser import CaserConfig
from delrec_lite.teachers.contract import Network


class Caser(Network):
    """The newest ``window`` items as an image of L rows, read by horizontal and vertical filters.

    Without the paper's user vector: a teacher must score users that were not in its training.

    All positions are trained at once. A horizontal filter of height h slides over the whole sequence; the maximum
    over the last ``L - h + 1`` places equals the paper's pooling over one window of L items.

    Args:
        config: hidden, window, filters, vertical and dropout are used.
        items: Size of the catalogue.
    """

    config: CaserConfig

    def __init__(self, config: CaserConfig, items: int) -> None:
        super().__init__(config, items)
        hidden, heights = config.hidden, range(1, config.window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(hidden, config.filters, h) for h in heights)
        self.vertical = nn.Parameter(torch.randn(config.vertical, config.window) / config.window**0.5)
        self.drop = nn.Dropout(config.dropout)
        self.mix = nn.Linear(config.filters * config.window + config.vertical * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def states(self, items: Any) -> Any:
        """Shapes as in ``Network``; zeros precede the first item."""
        window = self.config.window
        image = F.pad(self.items[items] * self.config.hidden**0.5, (0, 0, window - 1, 0))
        image = self.drop(image)
        vertical = F.conv2d(image.unsqueeze(1), self.vertical[:, None, :, None])
        parts = [vertical.transpose(1, 2).flatten(2)]
        columns = image.transpose(1, 2)
        for height, conv in enumerate(self.horizontal, start=1):
            seen = F.max_pool1d(F.relu(conv(columns)), window - height + 1, stride=1)
            parts.append(seen.transpose(1, 2))
        return self.norm(self.mix(self.drop(torch.cat(parts, dim=2))))
