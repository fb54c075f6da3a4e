"""Windows of training sequences, grouped into steps; a seed decides all of it."""

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
        count, full_step_seen = 0, False
        for window in pool:
            batch.append(window)
            count += len(window) - 1
            if count >= tokens:
                yield batch
                batch, count, full_step_seen = [], 0, True
        if not full_step_seen:
            yield pool  # the data set is smaller than a step
        epoch += 1  # the last, short step of an epoch is dropped; its windows are in the next epoch again


def steps_for(epochs: float, sequences: Sequence[Ints], tokens: int) -> int:
    """Number of steps of ``epochs`` passes over the training interactions; at least one, unless ``epochs`` is 0."""
    return 0 if epochs == 0 else max(1, round(epochs * sum(max(0, len(s) - 1) for s in sequences) / tokens))


class StepPlan:
    """The windows of any step; they depend on the step alone, so a resumed run gets the same ones.

    Args:
        sequences: Training sequences.
        length: Largest number of inputs of a window.
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
