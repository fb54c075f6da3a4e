"""Windows of training sequences, put together into steps; all from a seed."""

from collections.abc import Iterator, Sequence

import numpy as np

from delrec_lite.data.types import Ints
from delrec_lite.data.windows import windows


def steps(sequences: Sequence[Ints], length: int, tokens: int, seed: int) -> Iterator[list[Ints]]:
    """Endless steps of about ``tokens`` inputs each, epoch after epoch; the same for the same seed."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        pool = windows(sequences, length, rng)
        rng.shuffle(pool)
        batch: list[Ints] = []
        count, whole = 0, False
        for window in pool:
            batch.append(window)
            count += len(window) - 1
            if count >= tokens:
                yield batch
                batch, count, whole = [], 0, True
        if not whole:
            yield pool  # a data set smaller than a step
        epoch += 1  # else the last, short step of an epoch is dropped; its windows return in the next


def steps_for(epochs: float, sequences: Sequence[Ints], tokens: int) -> int:
    """How many steps make so many passes over the training interactions; at least one, unless none are asked for."""
    return 0 if epochs == 0 else max(1, round(epochs * sum(max(0, len(s) - 1) for s in sequences) / tokens))


class StepPlan:
    """The windows of any step, the same whichever step was asked for before; so a resumed run sees what it would have.

    Args:
        sequences: Training sequences.
        length: Most inputs of a window.
        tokens: Inputs of a step.
        seed: Decides cuts and order.
    """

    def __init__(self, sequences: Sequence[Ints], length: int, tokens: int, seed: int) -> None:
        self._arguments = (sequences, length, tokens, seed)
        self._stream = steps(*self._arguments)
        self._next = 0

    def at(self, step: int) -> list[Ints]:
        """The windows of ``step``, from 0."""
        if step < self._next:
            self._stream, self._next = steps(*self._arguments), 0
        batch: list[Ints] = []
        while self._next <= step:
            batch = next(self._stream)
            self._next += 1
        return batch
