"""Values of RecTools for random lists: `python tests/rectools_values.py` writes tests/data/rectools.json.

It needs `pip install rectools` alone, in an environment of its own (RecTools holds numpy below 2).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "data" / "rectools.json"
USERS, ITEMS, LENGTHS = 40, 60, (5, 10)
GENRES, BRANDS = ("drama", "comedy", "war", "western"), ("Acme", "Zeta", "Omni")


def world(seed: int = 11) -> dict[str, Any]:
    """Random histories, lists, targets and features of items; the last two items are in no history."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, ITEMS - 1)
    weights /= weights.sum()
    train, targets, lists = [], [], []
    for user in range(USERS):
        history = rng.choice(ITEMS - 2, rng.integers(3, 12), replace=False, p=weights)
        unseen = np.setdiff1d(np.arange(ITEMS), history)
        unseen = unseen[np.argsort(unseen * rng.random(len(unseen)))]
        chosen = unseen[: max(LENGTHS) if user % 7 else 3]  # some lists are short
        train.append(history.tolist())
        lists.append(chosen.tolist())
        targets.append(int(rng.choice(chosen) if user % 3 else unseen[-1]))
    genres = [sorted(rng.choice(GENRES, rng.integers(0, 4), replace=False).tolist()) for _ in range(ITEMS)]
    brands = [str(brand) for brand in rng.choice(BRANDS, ITEMS)]
    vectors = rng.normal(size=(ITEMS, 6)).round(3).tolist()
    return {"train": train, "targets": targets, "lists": lists, "genres": genres, "brands": brands, "vectors": vectors}


def values(facts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """RecTools' values by the length of the lists and the metric."""
    import pandas as pd
    from rectools import metrics as of
    from rectools.metrics.distances import PairwiseDistanceCalculator

    def frame(rows: list[list[int]]) -> Any:
        pairs = [(user, item, rank) for user, row in enumerate(rows) for rank, item in enumerate(row, 1)]
        return pd.DataFrame(pairs, columns=["user_id", "item_id", "rank"])

    train, lists = frame(facts["train"]).drop(columns="rank"), frame(facts["lists"])
    test = frame([[target] for target in facts["targets"]]).drop(columns="rank")
    hot = {f"genre={genre}": [genre in own for own in facts["genres"]] for genre in GENRES}
    hot |= {f"brand={brand}": [brand == own for own in facts["brands"]] for brand in BRANDS}
    features = pd.DataFrame(hot, index=pd.RangeIndex(ITEMS, name="item_id")).astype(int)
    had = np.zeros((ITEMS, USERS))
    had[train["item_id"], train["user_id"]] = 1

    class Cosine(PairwiseDistanceCalculator):
        def __init__(self, rows: Any) -> None:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            self.rows = rows / np.where(norms > 0, norms, 1)

        def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> Any:
            first, second = (self.rows[np.asarray(items, int)] for items in (items_0, items_1))
            return 1 - (first * second).sum(1)

    def metrics(k: int) -> dict[str, Any]:
        return {
            "HR": of.HitRate(k),
            "Recall": of.Recall(k),
            "MAP": of.MAP(k),
            "MRR": of.MRR(k),
            "NDCG": of.NDCG(k, divide_by_achievable=True),
            "coverage": of.CatalogCoverage(k, normalize=True),
            "novelty": of.MeanInvUserFreq(k),
            "popularity": of.AvgRecPopularity(k),
            "serendipity": of.Serendipity(k),
            "text diversity": of.IntraListDiversity(k, Cosine(np.array(facts["vectors"]))),
            "co-occurrence diversity": of.IntraListDiversity(k, Cosine(had)),
            "column diversity": of.IntraListDiversity(k, of.PairwiseHammingDistanceCalculator(features)),
        }

    return {
        str(k): {
            name: float(value)
            for name, value in of.calc_metrics(metrics(k), lists, test, train, catalog=list(range(ITEMS))).items()
        }
        for k in LENGTHS
    }


def main() -> None:
    """Write the file."""
    import rectools

    facts = world()
    content = {"made_by": f"RecTools {rectools.__version__}", "world": facts, "values": values(facts)}
    FILE.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
