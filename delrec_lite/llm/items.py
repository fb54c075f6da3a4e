"""Items as vectors made of their titles: what an untrained item is, on the way in and on the way out."""

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
        norm: Rescale every mean to this length, so that an item has a token's usual norm.

    Returns:
        float32 tensor of shape ``[titles, hidden]``.
    """
    means = torch.stack([rows[encode(TITLE_PREFIX + title)].float().mean(0) for title in titles])
    return means if norm is None else means * (norm / means.norm(dim=1, keepdim=True))


def usual_norm(rows: Any) -> float:
    """The median length of a token's row."""
    return float(rows.float().norm(dim=1).median())
