"""Item vectors of which a step trains only those that it reads: row-wise Adagrad, one number of state for an item."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from delrec_lite.data.types import Ints

# Times the learning rate of AdamW. AdamW moves a vector that is read once in many steps by about eight times its rate,
# because its moments remain; Adagrad moves it once.
RATE = 10.0
EPSILON = 1e-10


class RowTable:
    """A table of item vectors, and between ``open`` and ``step`` the rows that are trained.

    Args:
        values: float32 or bfloat16 ``[items, width]``, changed in place.
    """

    def __init__(self, values: Any) -> None:
        self.values = values.detach()
        self.squares = torch.zeros(len(values), device=values.device)
        self.items: Any = None
        self.rows: Any = None

    def open(self, items: Any) -> None:
        """Read rows as a trained parameter.

        Args:
            items: Item indices, ascending, each once: int64 ``[k]``.
        """
        self.items, self.rows = items, nn.Parameter(self.values[items].float())

    def read(self, items: Any) -> Any:
        """Rows as float32 ``[..., width]``: with gradients where the table is open, which must hold these items."""
        if self.rows is None:
            return self.values[items].float()
        return self.rows[torch.searchsorted(self.items, items).clamp(max=len(self.items) - 1)]

    @torch.no_grad()
    def step(self, lr: float, generator: Any = None) -> None:
        """One step of row-wise Adagrad on the rows that are open, which are then closed.

        A row's state is the sum of the mean squares of its gradients. In bfloat16 a result is rounded up or down at
        random, with its value as the expectation: else steps below its resolution would be lost.

        Args:
            lr: Learning rate, as AdamW would have it.
            generator: Of the random numbers, on the CPU; default: torch's own.
        """
        if self.rows.grad is not None:
            gradient = self.rows.grad
            squares = self.squares[self.items] + gradient.square().mean(1)
            self.squares[self.items] = squares
            changed = self.rows - RATE * lr * gradient / (squares.sqrt()[:, None] + EPSILON)
            half = self.values.dtype == torch.bfloat16
            self.values[self.items] = rounded_at_random(changed, generator) if half else changed
        self.close()

    def close(self) -> None:
        """Forget the rows of the step."""
        self.items = self.rows = None


def rounded_at_random(values: Any, generator: Any = None) -> Any:
    """bfloat16 neighbours of float32 values, each the likelier the nearer it is; exact values stay as they are."""
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(1 << 16, bits.shape, dtype=torch.int32, generator=generator)
    return ((bits + noise.to(bits.device)) & -(1 << 16)).view(torch.float32).bfloat16()


@dataclass(frozen=True)
class TrainedRows:
    """The tables of a stage.

    Attributes:
        tables: By the names of their values in a checkpoint.
        items_of: Step to the items that it reads, ascending, each once: int64 ``[k]``.
        lr: The highest learning rate.
    """

    tables: Mapping[str, RowTable]
    items_of: Callable[[int], Ints]
    lr: float

    def open(self, step: int) -> dict[str, nn.Parameter]:
        """Read the rows of a step: the trained parameters by name."""
        items = torch.from_numpy(self.items_of(step))
        for table in self.tables.values():
            table.open(items.to(table.values.device))
        return {name: table.rows for name, table in self.tables.items()}

    def step(self, step: int, factor: float) -> None:
        """Train and close the rows that are open.

        Args:
            step: Decides the random numbers, so that several processes round alike.
            factor: Of the learning rate.
        """
        for table in self.tables.values():
            table.step(self.lr * factor, torch.Generator().manual_seed(step))

    @property
    def values(self) -> dict[str, Any]:
        """The whole tables by name."""
        return {name: table.values for name, table in self.tables.items()}

    @property
    def state(self) -> dict[str, Any]:
        """The state of the optimiser by name, changed in place."""
        return {f"squares/{name}": table.squares for name, table in self.tables.items()}
