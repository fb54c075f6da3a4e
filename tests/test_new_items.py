"""A new item's row: what the trained items tell of titles, spread and levelled like theirs."""

import numpy as np
import pytest
import torch

from delrec_lite.export.new_items import LEVEL, fit_new_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import NEW_ITEMS
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.tiny import dataset


@pytest.fixture
def world():
    """Rows that follow from titles by a matrix, and noise; states that have a usual part."""
    torch.manual_seed(4)
    titles = torch.randn(300, 16)
    rows = titles @ torch.randn(16, 16) + 0.5 * torch.randn(300, 16)
    return titles, rows, torch.randn(200, 16) + 2 * torch.ones(16)


def test_a_left_out_item_is_scored_much_as_if_it_had_been_trained(world):
    titles, rows, states = world
    truncate_to_context = fit_new_items(titles[:250], rows[:250], states)
    guessed = titles[250:] @ truncate_to_context[:-1] + truncate_to_context[-1]
    spread = states - states.mean(0)
    pairs = zip((spread @ guessed.T).T, (spread @ rows[250:].T).T, strict=True)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > 0.9
    assert (spread @ guessed.T).std() == pytest.approx((spread @ rows.T).std().item(), rel=0.3)
    level = torch.quantile(rows[:250] @ states.mean(0), LEVEL)
    torch.testing.assert_close(guessed @ states.mean(0), level.expand(50), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("items", [1, 3, 12])
def test_few_items_are_enough_for_numbers(world, items):
    titles, rows, states = world
    assert torch.isfinite(fit_new_items(titles[:items], rows[:items], states)).all()


def test_the_bundle_carries_the_map_and_new_titles_use_it(tiny_base, tmp_path):
    path = export_tiny(tiny_base, tmp_path / "x.delrec").path
    matrix = np.load(path / NEW_ITEMS)
    assert matrix.dtype == np.float16
    with Recommender.load(path, threads=1) as recommender:
        title = dataset().catalog.titles[3]
        _, output = recommender.new_item(title)
        ids = recommender._tokenizer.encode(" " + title, add_special_tokens=False).ids
        vector = recommender.engine.token_vector(ids)
        assert output == pytest.approx(vector @ matrix[:-1].astype(np.float32) + matrix[-1], abs=1e-3)
        new = recommender.recommend([title], candidates=["Silver Comet", *dataset().catalog.titles[:3]], allow_new=True)
    assert len(new.items) == 4
    np.save(path / NEW_ITEMS, matrix[:-1])
    from delrec_lite.errors import BundleError

    with pytest.raises(BundleError, match="new-items.npy"):
        _ = Bundle.open(path, verify=False).new_items
