"""The protocol of hidden items: what is hidden, from whom, and the report."""

import json

import numpy as np
import pytest
import yaml

from delrec_lite.bench import cold_items
from tests.tiny import ITEMS, dataset


def test_hidden_items_are_nowhere_in_training_and_every_other_item_stays():
    whole = dataset()
    hidden = cold_items.hide(whole, 2)
    reduced, count = hidden.dataset, len(hidden.warm)
    assert len(hidden.cold) == ITEMS // 10
    assert reduced.catalog.titles == tuple(whole.catalog.titles[i] for i in hidden.warm)
    cold = set(hidden.cold.tolist())
    for sequence, shorter, cut in zip(whole.train(), reduced.train(), reduced.cuts, strict=True):
        assert [hidden.warm[i] for i in shorter] == [i for i in sequence.tolist() if i not in cold]
        assert len(shorter) == cut[0]
    valid = whole.valid().targets
    assert [hidden.warm[i] for i in reduced.valid().targets] == [i for i in valid.tolist() if i not in cold]
    order = np.concatenate([hidden.warm, hidden.cold])
    assert order[hidden.targets].tolist() == whole.test().targets.tolist()
    assert all((history < count).all() for history in hidden.histories)
    folds = np.concatenate([cold_items.hide(whole, n).cold for n in range(10)])
    assert sorted(folds.tolist()) == list(range(ITEMS))


@pytest.mark.parametrize(("model", "words"), [({"item_text": "rows"}, {"domain": "book", "verb": "read"}), ({}, {})])
def test_the_report_of_a_tiny_run(tiny_run, tmp_path, model, words):
    recipe = tiny_run.recipe(model={"base": "tiny", "soft_tokens": 3, **model})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**recipe.dump(), "data": {"folder": recipe.data.folder, **words}}))
    cold_items.main([str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "c.json")])
    report = json.loads((tmp_path / "c.json").read_text())
    users = len(dataset().test())
    assert report["among_cold"]["users"] == report["among_all"]["users"] == users - report["warm"]["users"] > 0
    assert report["among_cold"]["HR@10"] == 1  # three hidden items
    assert report["among_all"]["median rank"] >= report["among_cold"]["median rank"]
    assert 0 <= report["warm"]["HR@10"] <= report["warm_alone"]["HR@10"] <= 1
    assert len(report["ranks"]["all"]) == users
    assert (report["new_item_boost"] is None) == (not model)
