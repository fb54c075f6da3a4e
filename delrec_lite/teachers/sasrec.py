"""SASRec (Kang and McAuley, 2018, arXiv 1808.09781): a causal transformer over item ids."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from delrec_lite.teacher_kinds.built_in.sasrec import SASRecConfig
from delrec_lite.teachers.contract import Network


class SASRec(Network):
    """Item and position vectors, ``layers`` blocks of causal self-attention and feed-forward, tied output.

    Different from the paper: each half of a block begins with a norm, and the feed-forward part is four times as wide.

    Args:
        config: hidden, layers, heads, dropout and max_length are used.
        items: Size of the catalogue.
    """

    config: SASRecConfig

    def __init__(self, config: SASRecConfig, items: int) -> None:
        super().__init__(config, items)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.hidden) * 0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)

    def states(self, items: Any) -> Any:
        """Shapes as in ``Network``; at most ``max_length`` items."""
        scale = self.config.hidden**0.5
        x = self.drop((self.items[items] + self.positions[: items.shape[1]]) * scale)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _Block(nn.Module):
    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Any) -> Any:
        rows, length, hidden = x.shape
        split = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self._drop(self.out(mixed.transpose(1, 2).reshape(rows, length, hidden)))
        return x + self._drop(self.down(F.gelu(self.up(self.norm2(x)))))

    def _drop(self, x: Any) -> Any:
        return F.dropout(x, self.dropout, self.training)
