"""The contract of every teacher: a causal network over item ids that scores the whole catalogue."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import UsageError
from delrec_lite.softmax.blocks import cross_entropy_in_blocks
from delrec_lite.softmax.choice import MOST_TEACHER_SCORES, chosen_negatives
from delrec_lite.softmax.negatives import Draw
from delrec_lite.softmax.sampled import Sample, first_of
from delrec_lite.teacher_kinds.settings import TeacherConfig


class Network(nn.Module):
    """A causal network: a state depends on the items up to its position. Input and output vectors are tied.

    Sequences are padded at their end, so states before the padding do not depend on it and no mask is needed.

    Args:
        config: Its size.
        items: Size of the catalogue.
    """

    # In a step of a sampled softmax: places of the negatives among the items that the network then has.
    step_draw: Draw | None = None

    def __init__(self, config: TeacherConfig, items: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Parameter(torch.randn(items, config.hidden) * 0.02)

    def states(self, items: Any) -> Any:
        """States after each item: int64 ``[rows, length]`` to float32 ``[rows, length, hidden]``."""
        raise NotImplementedError

    def scores(self, states: Any) -> Any:
        """Scores of the whole catalogue: float32 ``[..., hidden]`` to ``[..., items]``."""
        return states @ self.items.T

    def loss(self, states: Any, targets: Any) -> Any:
        """The training loss: the mean cross-entropy of the next items over the whole catalogue, or a sample of it.

        Args:
            states: float32 ``[n, hidden]``.
            targets: The items that followed, int64 ``[n]``.
        """
        smoothing = self.config.label_smoothing
        if self.step_draw is not None:
            sample = Sample.of(targets, self.step_draw)
            logits = sample.logits(states, self.items[sample.items])
            loss = first_of(logits)
            return loss + smoothing * (logits[:, 0] - sample.mean_score(logits)).mean() if smoothing else loss
        if len(states) * len(self.items) > MOST_TEACHER_SCORES and type(self).scores is Network.scores:
            return cross_entropy_in_blocks(states, self.items, targets, smoothing)
        return F.cross_entropy(self.scores(states), targets, label_smoothing=smoothing)

    def drawn_negatives(self, items: int) -> int:
        """How many negatives ``fit`` draws for each step's ``loss``, which then sees no other items; 0: none.

        Args:
            items: Size of the catalogue.
        """
        own = type(self).loss is not Network.loss or type(self).scores is not Network.scores
        return 0 if own else chosen_negatives(self.config.negatives, items)


class Teacher:
    """A fitted sequential recommender; an item that is not in the training data is scored by its untrained vector.

    Args:
        network: Trained; switched to evaluation mode.
        items: Size of the catalogue.
        metrics: Validation figures of training, saved with the teacher.
    """

    def __init__(self, network: Network, items: int, metrics: dict[str, float] | None = None) -> None:
        self.network = network.eval()
        self.config = network.config
        self.items = items
        self.metrics = metrics or {}

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """Scores of the whole catalogue after each history.

        Args:
            histories: Item indices, oldest first, each at least one; the newest ``max_length`` are read.

        Returns:
            float32 of shape ``[histories, items]``.

        Raises:
            UsageError: A history is empty or holds an index outside the catalogue.
        """
        out = np.empty((len(histories), self.items), dtype=np.float32)
        length = self.config.max_length
        for rows, states in self._batches([self._checked(h)[-length:] for h in histories]):
            last = torch.stack([states[n, len(histories[row][-length:]) - 1] for n, row in enumerate(rows)])
            out[rows] = self.network.scores(last).cpu().numpy()
        return out

    @contextmanager
    def dropping_out(self) -> Iterator[None]:
        """In a ``with`` block of this, scores are computed with the dropout of training."""
        self.network.train()
        try:
            yield
        finally:
            self.network.eval()

    def item_vectors(self) -> Floats:
        """The network's vectors of all items: float32 ``[items, hidden]``."""
        vectors: Floats = self.network.items.detach().cpu().numpy()
        return vectors

    def sequence_scores(self, sequence: Ints) -> Floats:
        """Scores after each item of a sequence: row t has seen items 0..t; float32 ``[length, items]``."""
        return self.sequence_scores_many([sequence])[0]

    def sequence_scores_many(self, sequences: Sequence[Ints]) -> list[Floats]:
        """``sequence_scores`` of several sequences; the last row of each equals the result of ``scores``."""
        out = [np.empty((len(self._checked(s)), self.items), dtype=np.float32) for s in sequences]
        for n, places, states in self._sequence_states(sequences):
            out[n][places] = self.network.scores(states).cpu().numpy()
        return out

    def sequence_states(self, sequences: Sequence[Ints]) -> Any:
        """The network's states that ``sequence_scores_many`` scores, of all sequences: float32 ``[n, hidden]``."""
        starts = np.cumsum([0, *(len(self._checked(s)) for s in sequences)])
        out = torch.empty(int(starts[-1]), self.config.hidden)
        for n, places, states in self._sequence_states(sequences):
            out[starts[n] : starts[n + 1]][places] = states.cpu()
        return out

    def _sequence_states(self, sequences: Sequence[Ints]) -> Iterator[tuple[int, Any, Any]]:
        """Index of a sequence, places in it and the states there; each beyond ``max_length`` needs its own window."""
        length = self.config.max_length
        owner = [(n, t) for n, s in enumerate(sequences) for t in (0, *range(length, len(s)))]
        windows = [sequences[n][:length] if t == 0 else sequences[n][t - length + 1 : t + 1] for n, t in owner]
        for rows, states in self._batches(windows):
            for place, row in enumerate(rows):
                n, t = owner[row]
                if t:
                    yield n, t, states[place, length - 1]
                else:
                    count = len(windows[row])
                    yield n, slice(0, count), states[place, :count]

    def _checked(self, history: Ints) -> Ints:
        if len(history) == 0:
            raise UsageError("an empty history has no next item", "give at least one item")
        if min(history) < 0 or max(history) >= self.items:
            raise UsageError(f"a history holds an item outside 0..{self.items - 1}", "use the indices of this data set")
        return history

    def _batches(self, windows: Sequence[Ints], size: int = 128) -> Any:
        """Yield indices into ``windows`` and their states, in batches of windows of similar length."""
        order = sorted(range(len(windows)), key=lambda n: len(windows[n]))
        with torch.inference_mode():
            for at in range(0, len(order), size):
                rows = order[at : at + size]
                yield rows, self.network.states(pad([windows[n] for n in rows]).to(self.network.items.device))


def pad(windows: Sequence[Ints]) -> Any:
    """Windows as one int64 tensor ``[windows, longest]``, shorter ones padded with item 0 at the end."""
    out = torch.zeros(len(windows), max(len(w) for w in windows), dtype=torch.int64)
    for row, window in enumerate(windows):
        out[row, : len(window)] = torch.as_tensor(np.asarray(window, dtype=np.int64))
    return out
