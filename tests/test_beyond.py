"""Metrics of lists: RecTools' values for the same lists, values computed by hand, and intervals."""

import json

import numpy as np
import pytest

from delrec_lite.data.columns import LIST, TEXT, ItemColumn
from delrec_lite.data.types import Catalog, Dataset
from delrec_lite.evaluation import beyond
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.metrics import per_user
from tests.rectools_values import FILE, ITEMS, values, world

COMMITTED = json.loads(FILE.read_text(encoding="utf-8"))
# Not in a list.
FAR = 10_000


def dataset(facts):
    """Every user's history is the training part; the target is the last item, behind one that validates."""
    columns = (
        ItemColumn("genre", LIST, tuple(map(tuple, facts["genres"]))),
        ItemColumn("brand", TEXT, tuple(facts["brands"])),
    )
    titles = tuple(f"Title {n}" for n in range(ITEMS))
    catalog = Catalog(tuple(f"i{n}" for n in range(ITEMS)), titles, columns=columns)
    sequences = tuple(np.array([*h, 0, t]) for h, t in zip(facts["train"], facts["targets"], strict=True))
    return Dataset("w", catalog, tuple(f"u{n}" for n in range(len(sequences))), sequences, "w", repeats=True)


def padded(lists, k):
    return np.array([[*row[:k], *([-1] * (k - len(row[:k])))] for row in lists], np.int32)


def ours(facts):
    """Our values of what RecTools computes, in its form."""
    data, out = dataset(facts), {}
    targets = np.array(facts["targets"])
    for k in (5, 10):
        lists = padded(facts["lists"], k)
        known = ItemFacts.of(data, [lists], np.array(facts["vectors"], np.float32))
        at = np.where((lists == targets[:, None]).any(1), (lists == targets[:, None]).argmax(1) + 1, FAR)
        found = {name: per_user(at, f"{name}@{k}") for name in ("HR", "Recall", "MAP", "MRR", "NDCG")}
        found |= {
            "novelty": beyond.novelty(lists, known),
            "popularity": beyond.popularity(lists, known.counts),
            "serendipity": beyond.serendipity(lists, targets, known.counts),
            **beyond.diversities(lists, known),
        }
        out[str(k)] = {name: float(each.mean(dtype=np.float64)) for name, each in found.items()}
        out[str(k)]["coverage"] = beyond.coverage(lists, ITEMS).value
    return out


def assert_same(one, other):
    assert one.keys() == other.keys()
    for k, of_k in one.items():
        assert of_k == pytest.approx(other[k], abs=1e-6)


def test_the_committed_values_of_rectools_are_ours():
    assert COMMITTED["made_by"].startswith("RecTools 0.")
    assert_same(ours(COMMITTED["world"]), COMMITTED["values"])


def test_rectools_itself_gives_our_values_for_other_lists():
    pytest.importorskip("rectools", reason="RecTools is not installed here; its committed values are compared")
    assert_same(ours(world(5)), values(world(5)))
