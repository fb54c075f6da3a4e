"""New items of a model with item text: their vectors by the same maps as those of the trained ones, without offset.

An offset also holds how popular its item is, which no text tells. So a new item's scores get a constant, its boost: as
much as the first ten of validation users bear.
"""

from typing import Any

import numpy as np
import torch

from delrec_lite.data.types import Dataset, evenly
from delrec_lite.llm.forward import last_states
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.ridge import ridge
from delrec_lite.prompts.tasks import Prompts

# Of the regression of a title's LM-head rows on its token rows, where the base has both.
HEAD_RIDGE = 0.03
# The share of the probability in the first ten that may be lost to new items, were a tenth of the catalogue new.
LOST = 0.02
FOLDS = 10
USERS, BATCH = 512, 16
BOUND = 50.0  # of a boost; the scores of a request span about 30


@torch.no_grad()
def text_item_maps(model: ItemLM, titles: Any, boost: Any = 0.0) -> Any:
    """The maps from a text's mean token row to what it adds to the vectors of its item.

    An item's input vector is its title's mean token row, scaled to a token's length, plus the first map of its text's
    mean token row; its output vector is the title's mean row times the verbalizer's scale, plus the second. For items
    of the catalogue these are the trained vectors without offsets, where the features are those of token rows.

    Args:
        model: As trained, with item text.
        titles: Mean token rows of the catalogue's titles, float32 ``[items, hidden]``.
        boost: Added to every output vector, float32 ``[hidden]``.

    Returns:
        float32 ``[2, hidden + 1, hidden]``: matrices, and their shifts as the last rows.
    """
    assert model.text is not None
    from_rows, scale = model.text.from_rows.to(model.text_in.device), model.log_scale.exp()
    out = from_rows @ model.text_out
    untied = model.titles_out - titles
    if (
        model.titles_in is not None and untied.abs().max() > 0
    ):  # the base's LM head has rows of its own, which no bundle holds
        matrix, shift = ridge(titles, untied, HEAD_RIDGE)
        out += torch.cat([matrix, shift[None]])
    maps = torch.stack([from_rows @ model.text_in, scale * out])
    maps[1, -1] += boost
    return maps


@torch.no_grad()
def new_item_boost(model: ItemLM, prompts: Prompts, dataset: Dataset, max_history: int) -> tuple[float, Any]:
    """The boost of new items, chosen on validation users.

    A tenth of the items at a time is scored as if new, by text alone, against the trained vectors of the others.

    Args:
        model: As trained, with item text.
        prompts: The compiled tasks.
        dataset: Of training.
        max_history: Items of a history that the prompt holds.

    Returns:
        The boost of a score at the mean state, and what is added to an output vector, float32 ``[hidden]``.
    """
    valid = dataset.valid()
    chosen = valid.take(evenly(len(valid), USERS)).histories
    batches = [chosen[at : at + BATCH] for at in range(0, len(chosen), BATCH)]
    states = torch.cat([last_states(model, prompts, batch, max_history) for batch in batches])
    scores = states @ model.head().T
    for row, history in enumerate(chosen):
        scores[row, torch.from_numpy(np.unique(history)).to(scores.device)] = -torch.inf
    text_alone = states @ (model.log_scale.exp() * (model.titles_out + model.features.float() @ model.text_out)).T
    text_alone[scores == -torch.inf] = -torch.inf
    mean = states.mean(0)
    along = mean / mean.square().sum()
    boost = bearable_boost(scores, text_alone, states @ along)
    return boost, boost * along


def bearable_boost(scores: Any, text_alone: Any, unit: Any) -> float:
    """The largest boost with which new items take no more than ``LOST`` of the first ten's probability.

    Args:
        scores: Of the items by their trained vectors, float32 ``[users, items]``; minus infinity: not ranked.
        text_alone: Of the same items by text alone.
        unit: What a boost of 1 adds to each user's scores of new items, float32 ``[users]``.
    """
    fold = torch.arange(scores.shape[1], device=scores.device) % FOLDS
    tops = []
    for n in range(FOLDS):
        if (fold == n).any() and (fold != n).any():
            known, new = scores[:, fold != n], text_alone[:, fold == n]
            tops.append([s.topk(min(10, s.shape[1]), 1).values for s in (known, new)])
    shares = [(known - scores.logsumexp(1, keepdim=True)).exp() for known, _ in tops]

    def lost(boost: float) -> float:
        total = missing = 0.0
        for (known, new), share in zip(tops, shares, strict=True):
            above = ((new + boost * unit[:, None])[:, None, :] > known[:, :, None]).sum(2)
            out = above + torch.arange(known.shape[1], device=known.device) >= 10
            total, missing = total + share.sum().item(), missing + share[out].sum().item()
        return missing / total

    low, high = -BOUND, BOUND
    if not tops or lost(high) <= LOST:
        return 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(middle) <= LOST else (low, middle)
    return low


@torch.no_grad()
def new_rows(model: ItemLM, titles: Any, texts: Any, maps: Any) -> tuple[Any, Any]:
    """Input and output vectors of new items, as the runtime computes them: float32 ``[n, hidden]`` each.

    Args:
        model: As trained.
        titles: Mean token rows of their titles, float32 ``[n, hidden]``.
        texts: Mean token rows of their titles with side text, same shape.
        maps: See `text_item_maps`.
    """
    inputs = titles * (model.input_norm / titles.norm(dim=1, keepdim=True))
    outputs = model.log_scale.exp() * titles
    first, second = (v + texts @ m[:-1] + m[-1] for v, m in zip((inputs, outputs), maps, strict=True))
    return first, second
