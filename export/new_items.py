"""Scores for items without interactions: a linear map from an item's title to a verbalizer row.

Training moves the verbalizer's rows far from their initial title vectors, and an untrained row scores far below all
trained ones: on ML-100K no such item was ever among the first ten. A ridge regression over the trained items predicts
the row of a new title. Its predictions vary too little, so they are scaled to the spread of the trained rows' scores.
A title does not tell an item's level (its mean score), so a new item gets the level of a popular item.

Measured on ML-100K's validation users, the target's row replaced by one predicted from its title (five folds over
items), whole catalogue: HR@10 0.000 with the title vector as the row, 0.054 with this; 0.007 by chance, 0.156 with the
trained row.
"""

from typing import Any

import torch

from delrec_lite.llm.ridge import ridge

# Share of the mean variance. 0.01, 0.03, 0.1 and 0.3 gave HR@10 0.051, 0.054, 0.048 and 0.037 there.
RIDGE = 0.03
# The level of a new item: this share of the trained items score lower on average. 0.5, 0.75: 0.001, 0.006.
LEVEL = 0.9
FOLDS = 5


@torch.no_grad()
def fit_new_items(titles: Any, rows: Any, states: Any) -> Any:
    """Fit the map from title vectors to rows.

    Args:
        titles: Title vectors of the trained items, as the runtime computes them, float32 ``[items, hidden]``.
        rows: The trained items' rows, scale folded in, float32 ``[items, hidden]``.
        states: Hidden states of many requests, float32 ``[n, hidden]``.

    Returns:
        float32 ``[hidden + 1, hidden]``: a title's vector times the first ``hidden`` rows, plus the last, is its row.
    """
    mean_state = states.mean(0)
    deviations = states - mean_state
    fold = torch.arange(len(rows)) % FOLDS
    predicted = torch.empty_like(rows)
    for n in range(FOLDS) if len(rows) >= FOLDS * 2 else ():
        held_out = fold == n
        matrix, shift = ridge(titles[~held_out], rows[~held_out], RIDGE)
        predicted[held_out] = titles[held_out] @ matrix + shift
    matrix, shift = ridge(titles, rows, RIDGE)
    if len(rows) < FOLDS * 2:
        predicted = titles @ matrix + shift
    gain = (_sigma(deviations, rows) / _sigma(deviations, predicted).clamp(min=1e-6)).clamp(1, 10)
    level = torch.quantile(rows @ mean_state, LEVEL)
    # The component along the mean state sets the level: remove it and add the chosen level.
    along = mean_state / mean_state.square().sum()
    matrix, shift = (part * gain - (part * gain) @ mean_state.outer(along) for part in (matrix, shift))
    return torch.cat([matrix, (shift + level * along)[None]])


def _sigma(deviations: Any, rows: Any) -> Any:
    """Standard deviation over requests of the median row's scores."""
    return (deviations @ rows.T).std(0).median()
