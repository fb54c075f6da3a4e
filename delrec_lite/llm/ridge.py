"""Ridge regression, for the linear maps between titles, text features and item vectors."""

from typing import Any

import torch


def ridge(inputs: Any, targets: Any, strength: float) -> tuple[Any, Any]:
    """The linear map with the least squared error and a penalty on its matrix.

    Args:
        inputs: float ``[n, a]``.
        targets: float ``[n, b]``.
        strength: The penalty, as a share of the inputs' mean variance.

    Returns:
        Matrix ``[a, b]`` and shift ``[b]``: ``inputs @ matrix + shift`` is near ``targets``.
    """
    centre, target = inputs.mean(0), targets.mean(0)
    x, y = inputs - centre, targets - target
    square = x.T @ x
    square.diagonal().add_(strength * square.diagonal().mean() + 1e-8)
    matrix = torch.linalg.solve(square, x.T @ y)
    return matrix, target - centre @ matrix
