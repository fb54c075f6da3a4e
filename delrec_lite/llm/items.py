"""Vectors of untrained items, made from their titles, for the input and for the output."""

from collections.abc import Sequence
from typing import Any

import torch

from delrec_lite.prompts.tasks import TITLE_PREFIX, Encode

Tensor = torch.Tensor


def title_vectors(rows: Any, titles: Sequence[str], encode: Encode, norm: float | None = None) -> Any:
    """The mean of each title's token rows.

    Args:
        rows: Token rows of shape ``[vocabulary, hidden]``.
        titles: Readable titles.
        encode: The base model's tokenizer.
        norm: Rescale every mean to this norm, so that an item has the norm of a token.

    Returns:
        float32 tensor of shape ``[titles, hidden]``.
    """
    means = torch.stack([rows[encode(TITLE_PREFIX + title)].float().mean(0) for title in titles])
    return means if norm is None else means * (norm / means.norm(dim=1, keepdim=True))


def median_norm(rows: Any) -> float:
    """The median norm of the token rows."""
    return float(rows.float().norm(dim=1).median())
