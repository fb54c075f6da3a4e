"""The same ranks, for some users apart: those with short histories, those whose next item is seldom seen."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import Dataset
from delrec_lite.evaluation.metrics import Ranks, per_user
from delrec_lite.evaluation.setting import Setting
from delrec_lite.evaluation.table import aligned

# A metric of each protocol: candidate sets are told apart by their first place, the catalogue by its first ten.
SHOWN = (("sampled", "HR@1"), ("full", "HR@10"))


def segments(dataset: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Which test users belong to each segment, in words: bool ``[users]``.

    The bounds are quarters of this data set's own test users.
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
    """A row for each model and segment: ``model``, ``segment``, ``users`` and a mean by ``protocol metric``."""
    return [
        {
            "model": model,
            "segment": segment,
            "users": int(inside.sum()),
            **{
                f"{protocol} {metric}": round(float(per_user(ranks.of(protocol)[inside], metric).mean()), 5)
                for protocol, metric in SHOWN
                if protocol in ranks.protocols
            },
        }
        for segment, inside in segments(dataset).items()
        for model, ranks in entries.items()
        if inside.any()
    ]


def markdown(rows: list[dict[str, Any]], setting: Setting) -> str:
    """One aligned table: a line for each model, a column for each segment."""
    names = list(dict.fromkeys(row["segment"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["model"], row["segment"]): row for row in rows}
    parts = []
    for protocol, metric in SHOWN:
        key = f"{protocol} {metric}"
        head = [f"{metric}, {f'{setting.candidates} candidates' if protocol == 'sampled' else setting.title(protocol)}"]
        head += [f"{name} ({found[models[0], name]['users']})" for name in names]
        those = [m for m in models if key in found[m, names[0]]]
        parts.append(aligned([head, *([m, *(f"{found[m, n][key]:.3f}" for n in names)] for m in those)]))
    return "\n\n".join(parts) + "\n"
