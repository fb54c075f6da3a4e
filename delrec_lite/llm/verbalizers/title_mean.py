"""title-mean in training: the answer's hidden state times the candidate's row of ``ItemLM.head``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.data.types import Ints
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import answers
from delrec_lite.llm.verbalizer import Question, Tokens, Verbalizer
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.softmax.parts import block_ends, block_size

# Logarithm of the smallest scale where maps from text learn the rows: they learn through it, and rows that tell nothing
# yet have their lowest loss at a scale near 0, from which a few hundred steps do not return (Amazon Beauty).
LEAST_WITH_TEXT = -1.5
# Where a catalogue is large, so many positions set the scale.
POSITIONS_OF_MANY_ITEMS = 64


class TitleMean(Verbalizer):
    """An item's row is the mean of its title's LM-head rows, with a trained offset and scale."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""
        items = torch.from_numpy(np.stack([q.candidates for q in questions])).to(model.soft.device)
        rows = model.head(items) if model.by_rows else model.head()[items]
        return torch.einsum("qh,qmh->qm", answers(model, prefix, questions), rows)

    def item_rows(self, model: ItemLM) -> Any:
        """See ``Verbalizer.item_rows``."""
        return model.head()

    def rows_of(self, model: ItemLM, items: Any) -> Any:
        """See ``Verbalizer.rows_of``."""
        return model.head(items)

    def head_rows(self, model: ItemLM, prompts: Prompts) -> tuple[Tokens, Any]:
        """See ``Verbalizer.head_rows``."""
        return range(model.vocabulary.item_base, len(model.vocabulary)), model.head()

    def learned(self, model: ItemLM) -> dict[str, Any]:
        """See ``Verbalizer.learned``."""
        return {"offset_out": model.offset_out, "log_scale": model.log_scale}

    @torch.no_grad()
    def calibrate(self, model: ItemLM, prompts: Prompts, windows: Sequence[Ints]) -> None:
        """Set the scale of the untrained verbalizer to the value with the lowest loss on the windows.

        Mean title rows have no natural scale; without this, stage 1 would train the soft prompt to correct the scale.
        With item text it is at least ``LEAST_WITH_TEXT``.
        """
        states = read_states(model, prompts.next_prefix, [window_segment(prompts, window[:-1]) for window in windows])
        targets = torch.from_numpy(np.concatenate([window[1:] for window in windows])).to(states.device)
        model.log_scale.zero_()
        grid = torch.linspace(-6 if model.text is None else LEAST_WITH_TEXT, 2, 33)
        if model.half:
            some = torch.arange(min(len(states), POSITIONS_OF_MANY_ITEMS), device=states.device)
            losses = _losses_in_blocks(model, states[some], targets[some], grid)
        else:
            scores = states @ model.head().T
            losses = torch.stack([F.cross_entropy(scores * g.exp(), targets) for g in grid])
        model.log_scale.copy_(grid[losses.argmin()])


def _losses_in_blocks(model: ItemLM, states: Any, targets: Any, grid: Any) -> Any:
    """Mean cross-entropy with each logarithm of the scale in ``grid``, without a matrix of all scores."""
    parts = []
    for start, end in block_ends(model.vocabulary.items, block_size(len(states))):
        scores = states @ model.head(slice(start, end)).T
        parts.append(torch.stack([(scores * g.exp()).logsumexp(1) for g in grid]))
    of_targets = (states * model.head(targets)).sum(1)
    return (torch.stack(parts).logsumexp(0) - grid.exp().to(states.device)[:, None] * of_targets).mean(1)
