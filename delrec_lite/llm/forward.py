"""From item sequences to hidden states and scores: packs histories, runs the model, returns only what is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Packed, Segment, pack
from delrec_lite.llm.verbalizer import catalogue_scores
from delrec_lite.prompts.tasks import Prompts

# Segment tokens per row. Attention is quadratic in the length of a row; the prefix is computed once per row. Measured
# on 2 cores, 16 histories of 50 items per step, items/s: 1 history per row 166, 200 tokens 280, 400 tokens 237, 800
# tokens 231.
ROW_TOKENS = 200


def read_states(model: ItemLM, prefix: Sequence[int], segments: Sequence[Segment]) -> Any:
    """Hidden states at the read positions of the segments, in order: float32 ``[reads, hidden]``."""
    return read_packed(model, pack(prefix, segments, ROW_TOKENS))


def read_packed(model: ItemLM, packed: Packed) -> Any:
    """Hidden states at ``packed.read``: float32 ``[reads, hidden]``."""
    device = model.soft.device
    with torch.autocast(device.type, torch.bfloat16, enabled=model.body.embed_tokens.weight.dtype == torch.bfloat16):
        return model.hidden(
            torch.from_numpy(packed.ids).to(device),
            torch.from_numpy(packed.positions).to(device),
            torch.from_numpy(packed.mask).to(device),
            torch.from_numpy(packed.read).to(device),
        )


@torch.no_grad()
def last_states(model: ItemLM, prompts: Prompts, histories: Sequence[Ints], max_history: int) -> Any:
    """The hidden state after each history: float32 ``[histories, hidden]``; arguments as in ``score_histories``."""
    segments = []
    for history in histories:
        ids, ends = prompts.history(prompts.newest(history, max_history).tolist())
        segments.append(Segment(ids, ends[-1:]))
    return read_states(model, prompts.next_prefix, segments)


@torch.no_grad()
def score_histories(model: ItemLM, prompts: Prompts, histories: Sequence[Ints], max_history: int) -> Floats:
    """Scores of the whole catalogue after each history.

    Args:
        model: With or without adapter.
        prompts: The compiled tasks.
        histories: Item indices, oldest first, none empty; only the newest ``max_history`` are read.
        max_history: Maximum items of a history in the prompt.

    Returns:
        float32 ``[histories, items]``.
    """
    states = last_states(model, prompts, histories, max_history)
    scores: Floats = catalogue_scores(model, prompts, states).cpu().numpy().astype(np.float32)
    return scores


def score_all(model: ItemLM, prompts: Prompts, histories: Sequence[Ints], max_history: int, batch: int = 16) -> Floats:
    """``score_histories`` over many histories, in batches."""
    starts = range(0, len(histories), batch)
    return np.concatenate([score_histories(model, prompts, histories[i : i + batch], max_history) for i in starts])


def window_segment(prompts: Prompts, window: Ints) -> Segment:
    """The segment of a training window, read at every item."""
    return Segment(*prompts.history(window.tolist()))
