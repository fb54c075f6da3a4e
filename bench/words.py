"""What words beside a history add: ``python -m delrec_lite.bench.words BUNDLE --dataset FOLDER --out FILE``.

Every test user is asked once without words and then with words about the next item: its whole side text, one part of
it, the same in other words, and another item's. Nothing was trained on them; the weights are those that validation
users chose at export. For negations, the users' first ten without words and with "not PART" are compared.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.data.store import load_dataset
from delrec_lite.data.types import Dataset, Floats, subsample
from delrec_lite.errors import DataError
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import catalogue_ranks
from delrec_lite.provenance import stamp
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.words.reading import WEIGHT, WEIGHT_ALONE

SEED, BATCH = 1, 32
COMMON = 0.05  # the share of the catalogue from which on a part is negated


def parts_of(text: str) -> list[str]:
    """The parts of a side text, such as its genres."""
    return [part.strip() for part in re.split(r"[,|]", text) if part.strip()]


def questions(recommender: Recommender, texts: Sequence[str], targets: Any) -> dict[str, list[str]]:
    """The words of every user, by kind."""
    rng = random.Random(SEED)
    one = [rng.choice(parts_of(texts[t])) for t in targets]
    table = recommender.words.table  # its own neighbours: kinder to the ranking than people's words
    return {
        "the next item's side text": [", ".join(parts_of(texts[t])) for t in targets],
        "one part of it": one,
        "one part, in other words": [table.in_other_words(words) for words in one],
        "another item's side text": [", ".join(parts_of(texts[t])) for t in rng.sample(list(targets), len(targets))],
    }


def measure(recommender: Recommender, dataset: Dataset, users: int | None) -> dict[str, Any]:
    """HR@10 and NDCG@10 of the whole catalogue by kind of words, beside the history and alone; and negations."""
    split, texts = dataset.test(), dataset.catalog.texts
    asked = [n for n, target in enumerate(split.targets) if texts and parts_of(texts[target])]
    if not asked:
        raise DataError("no test item has side text", "prepare the data set with --text-columns")
    split = split.take([asked[n] for n in subsample(len(asked), users or len(asked))])
    starts = range(0, len(split), BATCH)
    scores = np.concatenate([recommender.scores(split.histories[at : at + BATCH]) for at in starts])
    popular = np.tile(recommender.selector.popular(), (len(split), 1))
    worded = questions(recommender, texts, split.targets)

    def figures(values: Floats) -> dict[str, Any]:
        ranks = catalogue_ranks(values, split.histories, split.targets, split.repeats)
        means = {metric: round(float(per_user(ranks, metric).mean()), 5) for metric in ("HR@10", "NDCG@10")}
        return {**means, "ranks": ranks.tolist()}

    rows = {"no words": figures(scores), "no words, no history": figures(popular)}
    for name, words in worded.items():
        rows[name] = figures(_mixed(recommender, scores, words, False))
        rows[f"{name}, no history"] = figures(_mixed(recommender, popular, words, True))
    return {"users": len(split), "rows": rows, "negations": _negations(recommender, scores, split.histories, texts)}


def _mixed(recommender: Recommender, scores: Floats, words: Sequence[str], alone: bool) -> Floats:
    read = {text: recommender.words.read(text, alone=alone) for text in dict.fromkeys(words)}
    return np.stack([recommender.words.mixed(read[text], row) for text, row in zip(words, scores, strict=True)])


def _negations(
    recommender: Recommender, scores: Floats, histories: Sequence[Any], texts: Sequence[str]
) -> dict[str, Any]:
    """For each common part: its share of the first ten without words, and with "not"."""
    names = sorted({part for text in texts for part in parts_of(text)})
    has = {name: np.array([name in parts_of(text) for text in texts]) for name in names}

    def share(values: Floats, part: str) -> float:
        ranked = values.copy()
        for row, history in enumerate(histories):
            ranked[row, history] = -np.inf
        return float(has[part][np.argpartition(-ranked, 9, axis=1)[:, :10]].mean())

    def with_not(part: str) -> Floats:
        return _mixed(recommender, scores, [f"not {part}"] * len(scores), False)

    return {
        f"not {name}": {
            "without words": round(share(scores, name), 4),
            "with not": round(share(with_not(name), name), 4),
        }
        for name in names
        if has[name].mean() >= COMMON
    }


def parser() -> argparse.ArgumentParser:
    """Bundle, data set and users."""
    options = script_parser("words", __doc__)
    options.add_argument("bundle", type=Path, help="the bundle folder")
    options.add_argument("--dataset", type=Path, required=True, help="its data set, prepared with --text-columns")
    options.add_argument("--users", type=int, help="about how many test users; default: all")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    started, dataset = stamp(), load_dataset(options.dataset)
    with Recommender.load(options.bundle, exact=True) as recommender:
        bundle = recommender.bundle
        if list(dataset.catalog.ids) != bundle.items.ids[: bundle.trained]:
            raise DataError(f"{options.dataset} has another catalogue than {options.bundle}", "give the bundle's own")
        weights = {key: bundle.manifest["model"].get(key) for key in (WEIGHT, WEIGHT_ALONE)}
        report = {**started, "bundle": bundle.name, "weights": weights, "dataset": dataset.name}
        report |= measure(recommender, dataset, options.users)
    without = report["rows"]["no words"]["HR@10"]
    gains = {name: round(row["HR@10"] / without, 2) for name, row in report["rows"].items() if without}
    report["gain of HR@10"] = gains
    write_json(report, options.out, indent=None)
    shown = {name: {k: v for k, v in row.items() if k != "ranks"} for name, row in report["rows"].items()}
    print(json.dumps({"rows": shown, "gain": gains, "negations": report["negations"]}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
