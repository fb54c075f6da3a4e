"""Vectors of untrained items, made from their titles, for the input and for the output."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from delrec_lite.prompts.tasks import TITLE_PREFIX, Encode
from delrec_lite.softmax.parts import block_ends

Tensor = torch.Tensor


def title_vectors(
    rows: Any, titles: Sequence[str], encode: Encode, norm: float | None = None, half: bool = False
) -> Any:
    """The mean of each title's token rows.

    Args:
        rows: Token rows of shape ``[vocabulary, hidden]``.
        titles: Readable titles.
        encode: The base model's tokenizer.
        norm: Rescale every mean to this norm, so that an item has the norm of a token.
        half: Keep them as bfloat16.

    Returns:
        float32 or bfloat16 tensor of shape ``[titles, hidden]``.
    """
    out = torch.empty(len(titles), rows.shape[1], dtype=torch.bfloat16 if half else torch.float32, device=rows.device)
    whole = rows.float() if half else None
    for start, end in block_ends(len(titles)):
        tokens = [encode(TITLE_PREFIX + title) for title in titles[start:end]]
        if whole is not None:
            means = _bag_means(whole, tokens)
        else:
            means = torch.stack([rows[ids].float().mean(0) for ids in tokens])
        out[start:end] = means if norm is None else means * (norm / means.norm(dim=1, keepdim=True))
    return out


def _bag_means(rows: Any, tokens: Sequence[Sequence[int]]) -> Any:
    """The mean of each list's rows, many times as fast as one by one, and equal but for rounding."""
    flat = torch.tensor([token for ids in tokens for token in ids], device=rows.device)
    ends = torch.tensor([len(ids) for ids in tokens], device=rows.device).cumsum(0)
    return functional.embedding_bag(flat, rows.detach(), torch.cat([ends.new_zeros(1), ends[:-1]]), mode="mean")


def median_norm(rows: Any) -> float:
    """The median norm of the token rows."""
    return float(rows.float().norm(dim=1).median())
