"""What diversity and the discount cost and change: ``python -m delrec_lite.bench.diversity BUNDLE --dataset FOLDER``.

Every test user's history is scored once, and the first k are chosen under each setting in turn, in an order that
changes from user to user. A setting's milliseconds are those of choosing alone; the scores cost the same in all.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.report import latency_summary
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.data.store import load_dataset
from delrec_lite.data.types import Floats, Split
from delrec_lite.errors import DataError
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.provenance import stamp
from delrec_lite.runtime.filters import Filters
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.selection import Selection

DIVERSITY = (0.0, 0.1, 0.3, 0.5, 0.7)
DISCOUNTS = (0.0, 0.1, 0.3, 0.5, 1.0)
# A rank that no list reaches.
NOT_LISTED = 1 << 30
BATCH = 16


@dataclass
class Measured:
    """What was chosen under one setting.

    Attributes:
        lists: Item indices of each user's list, best first.
        ranks: Of each user's target, ``NOT_LISTED`` where the list does not have it.
        samples_ms: Milliseconds of each choice.
    """

    lists: list[list[int]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    samples_ms: list[float] = field(default_factory=list)


def measure(recommender: Recommender, split: Split, settings: Sequence[Selection]) -> list[Measured]:
    """Choose every user's items under each setting, which differ in diversity and discount."""
    index = {item: n for n, item in enumerate(recommender.bundle.items.ids)}
    measured = [Measured() for _ in settings]
    recommender.vectors.preload()
    for start in range(0, len(split), BATCH):
        histories = [history.tolist() for history in split.histories[start : start + BATCH]]
        for row, scores in enumerate(recommender.scores(histories)):
            left_out = [] if recommender.bundle.repeats else histories[row]
            for n in np.roll(np.arange(len(settings)), start + row).tolist():
                before = time.perf_counter()
                ranked = recommender.selector.rank_catalogue(scores, left_out, settings[n])
                measured[n].samples_ms.append(round((time.perf_counter() - before) * 1e3, 4))
                chosen = [index[item.id] for item in ranked]
                target = int(split.targets[start + row])
                measured[n].ranks.append(1 + chosen.index(target) if target in chosen else NOT_LISTED)
                measured[n].lists.append(chosen)
    return measured


def facts(recommender: Recommender, setting: Selection, measured: Measured) -> dict[str, Any]:
    """A row of the report: cost, accuracy, likeness, coverage, popularity."""
    items, k = recommender.bundle.items, setting.k
    popularity = np.array(items.popularity)
    chosen = np.concatenate(measured.lists)
    ranks = np.array(measured.ranks)
    return {
        "diversity": setting.diversity,
        "popularity_discount": setting.popularity_discount,
        "ms": latency_summary(measured.samples_ms),
        f"HR@{k}": round(float(per_user(ranks, f"HR@{k}").mean()), 4),
        f"NDCG@{k}": round(float(per_user(ranks, f"NDCG@{k}").mean()), 4),
        "likeness": round(float(np.mean([likeness(recommender, row) for row in measured.lists])), 4),
        "coverage": round(len(np.unique(chosen)) / len(items.ids), 4),
        "mean popularity": round(float(popularity[chosen].mean()), 2),
        "ranks": [int(rank) if rank < NOT_LISTED else 0 for rank in measured.ranks],
        "samples_ms": measured.samples_ms,
    }


def likeness(recommender: Recommender, chosen: Sequence[int]) -> float:
    """The mean cosine of two items of a list; 0 for fewer than two."""
    if len(chosen) < 2:
        return 0.0
    units: Floats = recommender.vectors.units(list(chosen))
    pairs = len(chosen) * (len(chosen) - 1)
    return float(((units @ units.T).sum() - (units * units).sum()) / pairs)


def measure_filters(recommender: Recommender, repeats: int = 50) -> dict[str, Any]:
    """Milliseconds of a filter with a condition on every column, new and when it was asked before; none without any."""
    names = [f"`{name}` is not missing" for name in recommender.columns.names]
    if not names:
        return {}
    where = " and ".join(names)
    samples: dict[str, list[float]] = {"new": [], "again": []}
    for _ in range(repeats):
        filters = Filters(recommender.columns)
        for name in samples:
            before = time.perf_counter()
            filters.mask(where)
            samples[name].append(round((time.perf_counter() - before) * 1e3, 4))
    return {"where": where, **{name: latency_summary(ms) for name, ms in samples.items()}, "samples_ms": samples}


def questions(recommender: Recommender, dataset: Path) -> Split:
    """The test questions of a data set, with whole histories.

    Raises:
        DataError: The data set has another catalogue than the bundle.
    """
    data = load_dataset(dataset)
    if list(data.catalog.ids) != recommender.bundle.items.ids:
        raise DataError(
            f"{dataset} and {recommender.bundle.folder} have different catalogues", "give the bundle's own data set"
        )
    return data.test()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    names = [name for name in rows[0] if name not in ("ms", "ranks", "samples_ms")]
    lines = ["  ".join([*names, "ms p50"])]
    for row in rows:
        cells = [f"{row[name]:>{len(name)}}" for name in names]
        lines.append("  ".join([*cells, f"{row['ms']['p50']:>6.2f}"]))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Bundle, data set and settings."""
    options = script_parser("diversity", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--dataset", type=Path, required=True, help="prepared data set whose test split asks")
    options.add_argument("-k", type=int, default=10, help="items of a list")
    options.add_argument("-n", type=int, help="the first so many users; default: all")
    options.add_argument("--both", action="store_true", help="every diversity with every discount, not one of them")
    options.add_argument("--quant", help="in a bundle with several; default: its first")
    options.add_argument("--threads", type=int, help="default: the cores allowed")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    report = stamp()
    pairs = [pair for pair in product(DIVERSITY, DISCOUNTS) if options.both or 0.0 in pair]
    settings = [Selection.of(options.k, None, diversity, discount) for diversity, discount in pairs]
    with Recommender.load(options.bundle, options.threads, quant=options.quant, exact=True) as recommender:
        split = questions(recommender, options.dataset)
        split = split.take(range(min(len(split), options.n or len(split))))
        measured = measure(recommender, split, settings)
        rows = [facts(recommender, *pair) for pair in zip(settings, measured, strict=True)]
        manifest = recommender.bundle.manifest
        report |= {
            "bundle": {"name": recommender.bundle.name, "quant": manifest["model"]["quant"]},
            "users": len(split),
            "items": len(recommender.bundle.items.ids),
            "filter": measure_filters(recommender),
            "rows": rows,
        }
    write_json(report, options.out)
    print(table(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
