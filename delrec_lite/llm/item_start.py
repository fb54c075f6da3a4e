"""Where item vectors begin: the item similarity of a sequential recommender, at the norm of titles."""

from typing import Any

import torch

from delrec_lite.softmax.parts import block_ends


def teacher_similarity(vectors: Any, trained: Any, width: int) -> tuple[Any, Any]:
    """A recommender's item vectors, centred and of median norm 1, and a random rotation to a wider space.

    Args:
        vectors: float32 ``[items, d]``; if d exceeds the width, only the first principal components are used.
        trained: Which items it has seen, bool ``[items]``; the vectors of all others are zero.
        width: Of the space.

    Returns:
        float32 ``[items, d]`` and ``[width, d]``: the product of the first with the second's transpose has the width.
    """
    centred = vectors - vectors[trained].mean(0)
    centred = centred / centred[trained].norm(dim=1).median() * trained.unsqueeze(1)
    if centred.shape[1] > width:
        centred = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:width].T
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(width, centred.shape[1], generator=generator))
    return centred, rotation


def norm_from_mean(rows: Any) -> float:
    """The median distance of rows, ``[n, width]``, from their mean."""
    ends = list(block_ends(len(rows)))
    mean = sum(rows[a:b].float().mean(0) * ((b - a) / len(rows)) for a, b in ends)
    norm: float = torch.cat([(rows[a:b].float() - mean).norm(dim=1) for a, b in ends]).median().item()
    return norm
