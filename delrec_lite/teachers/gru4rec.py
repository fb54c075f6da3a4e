"""GRU4Rec (Hidasi et al., 2016, arXiv 1511.06939): a recurrent network over item ids."""

from typing import Any

from torch import nn

from delrec_lite.teacher_kinds.built_in.gru4rec import GRU4RecConfig
from delrec_lite.teachers.contract import Network


class GRU4Rec(Network):
    """Item vectors, ``layers`` GRU layers, a linear map back to item vectors, tied output.

    The paper samples negatives from the mini-batch; here the softmax is over the whole catalogue.

    Args:
        config: hidden, layers and dropout are used.
        items: Size of the catalogue.
    """

    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, items: int) -> None:
        super().__init__(config, items)
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.hidden, config.hidden, config.layers, batch_first=True, dropout=between)
        self.drop = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden)

    def states(self, items: Any) -> Any:
        """Shapes as in ``Network``."""
        states, _ = self.gru(self.drop(self.items[items] * self.config.hidden**0.5))
        return self.norm(self.out(self.drop(states)))
