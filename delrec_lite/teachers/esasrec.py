"""eSASRec (Tikhonovich et al., 2025, arXiv 2508.06450): SASRec with LiGR blocks and a sampled softmax."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from delrec_lite.softmax.choice import chosen_negatives
from delrec_lite.teacher_kinds.built_in.esasrec import ESASRecConfig
from delrec_lite.teachers.contract import Network


class ESASRec(Network):
    """Item and position vectors, ``layers`` gated blocks of causal self-attention and feed-forward, tied output.

    Different from the paper: all positions of a step share its negatives, which costs a CPU one small matrix product;
    and without ``negatives`` the softmax is that of the other teachers, which sampling approximates.

    Args:
        config: hidden, layers, heads, dropout, max_length and negatives are used.
        items: Size of the catalogue.
    """

    config: ESASRecConfig

    def __init__(self, config: ESASRecConfig, items: int) -> None:
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

    def drawn_negatives(self, items: int) -> int:
        """See ``Network.drawn_negatives``: with a setting of its own, the paper's loss draws them."""
        return 0 if self.config.negatives is not None else chosen_negatives(None, items)

    def loss(self, states: Any, targets: Any) -> Any:
        """Cross-entropy of each target among itself and random negatives, see ``Network.loss``."""
        count = len(self.items)
        if not 0 < (self.config.negatives or 0) < count:
            return super().loss(states, targets)
        negatives = torch.randint(count, (self.config.negatives,), device=states.device)
        negative_scores = states @ self.items[negatives].T
        # A target that is also a negative would be pushed up and down at once.
        negative_scores = negative_scores.masked_fill(negatives == targets[:, None], float("-inf"))
        target_scores = (states * self.items[targets]).sum(1, keepdim=True)
        return F.cross_entropy(torch.cat([target_scores, negative_scores], 1), torch.zeros_like(targets))


class _Block(nn.Module):
    """A LiGR block (Borisyuk et al., 2025, arXiv 2502.03417): a gate that depends on the input scales each half.

    Each half begins with a norm. The feed-forward half is a SwiGLU with the weights of a plain one four times as wide.
    """

    def __init__(self, config: ESASRecConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden, 8 * max(1, round(config.hidden / 3))
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 2 * inner), nn.Linear(inner, hidden)
        self.gate1, self.gate2 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Any) -> Any:
        x = x + torch.sigmoid(self.gate1(x)) * self._drop(self._attention(self.norm1(x)))
        return x + torch.sigmoid(self.gate2(x)) * self._drop(self._feed_forward(self.norm2(x)))

    def _attention(self, x: Any) -> Any:
        rows, length, hidden = x.shape
        split = self.qkv(x).view(rows, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, hidden))

    def _feed_forward(self, x: Any) -> Any:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)

    def _drop(self, x: Any) -> Any:
        return F.dropout(x, self.dropout, self.training)
