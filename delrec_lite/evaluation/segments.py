"""Metrics by segment of users: short or longer histories, next items seen rarely or often."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import Dataset
from delrec_lite.evaluation.metrics import Ranks, per_user
from delrec_lite.evaluation.proportions import wilson
from delrec_lite.evaluation.setting import Setting
from delrec_lite.evaluation.table import aligned

# One metric for each protocol: the first place for candidate sets, the first ten for the catalogue.
SHOWN = (("sampled", "HR@1"), ("full", "HR@10"))


def segments(dataset: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Which test users belong to each segment, in words: bool ``[users]``.

    The bounds are the lower quartiles over this data set's test users.
    """
    test = dataset.test()
    lengths = np.array([len(history) for history in test.histories])
    seen = dataset.popularity()[test.targets]
    short, rare = int(np.quantile(lengths, 0.25)), int(np.quantile(seen, 0.25))
    return {
        f"histories of at most {short} items": lengths <= short,
        f"longer histories (over {short})": lengths > short,
        f"next item seen at most {rare} times": seen <= rare,
        f"next item seen more often (over {rare})": seen > rare,
    }


def by_segment(entries: Mapping[str, Ranks], dataset: Dataset) -> list[dict[str, Any]]:
    """A row for each model and segment: ``model``, ``segment``, ``users``, a mean by ``protocol metric``.

    ``intervals`` has the 95% intervals of these, which are shares of users, by Wilson.
    """
    return [
        {"model": model, "segment": segment, "users": int(inside.sum()), **_shares(ranks, inside)}
        for segment, inside in segments(dataset).items()
        for model, ranks in entries.items()
        if inside.any()
    ]


def _shares(ranks: Ranks, inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A model's shares of the users of a segment, and their intervals."""
    shares = {
        f"{protocol} {metric}": wilson(int(per_user(ranks.of(protocol)[inside], metric).sum()), int(inside.sum()))
        for protocol, metric in SHOWN
        if protocol in ranks.protocols
    }
    intervals = {name: (round(share.low, 5), round(share.high, 5)) for name, share in shares.items()}
    return {**{name: round(share.share, 5) for name, share in shares.items()}, "intervals": intervals}


def markdown(rows: list[dict[str, Any]], setting: Setting) -> str:
    """An aligned table for each metric: a line for each model, a column for each segment."""
    names = list(dict.fromkeys(row["segment"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["segment"]): row for row in rows}
    parts = []
    for protocol, metric in SHOWN:
        key = f"{protocol} {metric}"
        head = [f"{metric}, {f'{setting.candidates} candidates' if protocol == 'sampled' else setting.title(protocol)}"]
        head += [f"{name} ({cells[models[0], name]['users']})" for name in names]
        ranked = [model for model in models if key in cells[model, names[0]]]
        lines = [[model, *(f"{cells[model, name][key]:.3f}" for name in names)] for model in ranked]
        parts.append(aligned([head, *lines]))
    return "\n\n".join(parts) + "\n"
