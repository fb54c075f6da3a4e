"""Item columns in a run: the bundle has them, and other columns cost a new bundle but no training."""

from dataclasses import replace

import numpy as np

from delrec_lite.data.columns import ItemColumn
from delrec_lite.data.store import Settings, save_dataset
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.tiny import ITEMS, candidates, dataset


def column(name):
    return ItemColumn(name, "number", tuple(float(n) for n in range(ITEMS)))


def with_columns(run, tmp_path, *names):
    """A run on the ring of items with these columns."""
    data = run().dataset
    data = replace(data, catalog=replace(data.catalog, columns=tuple(map(column, names))))
    settings = Settings(2, 5, 3, item_columns=names)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, settings, tmp_path / "ring")
    return run(model={"history": "titles"})


def test_other_columns_are_exported_again_without_training(tiny_run, tmp_path):
    run = with_columns(tiny_run, tmp_path, "price")
    assert run.recipe.data.item_columns == ("price",)
    run.export()
    assert Bundle.open(run.bundle).columns == (column("price"),)
    trained = {name: run.stages[name].key for name in ("teacher", "distill", "finetune")}
    again = with_columns(tiny_run, tmp_path, "price", "size")
    assert again.export().computed
    assert {name: again.stages[name].key for name in trained} == trained
    assert not any(again.stages[name].computed for name in trained)
    assert [c.name for c in Bundle.open(run.bundle).columns] == ["price", "size"]
    titles = dataset().catalog.titles
    with Recommender.load(run.bundle, threads=1) as recommender:  # of titles: no item has a row of its own
        tokens = recommender.bundle.prompts.titles
        expected = [recommender.engine.token_vector(tokens[item]) for item in (4, 2)]
        np.testing.assert_array_equal(recommender.engine.item_vectors([4, 2]), expected)
        answer = recommender.recommend(titles[:2], where="price between 5 and 9", diversity=0.5)
        assert {item.title for item in answer.items} == set(titles[5:10])
