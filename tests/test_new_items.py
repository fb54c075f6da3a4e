"""A new item gets a row predicted from its title, with the spread and level of the trained rows."""

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
def vectors():
    """Titles, rows (a linear map of the titles plus noise) and states with a common mean."""
    torch.manual_seed(4)
    titles = torch.randn(300, 16)
    rows = titles @ torch.randn(16, 16) + 0.5 * torch.randn(300, 16)
    return titles, rows, torch.randn(200, 16) + 2 * torch.ones(16)


def test_a_left_out_item_scores_nearly_as_its_trained_row_does(vectors):
    titles, rows, states = vectors
    matrix = fit_new_items(titles[:250], rows[:250], states)
    predicted = titles[250:] @ matrix[:-1] + matrix[-1]
    centred = states - states.mean(0)
    pairs = zip((centred @ predicted.T).T, (centred @ rows[250:].T).T, strict=True)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > 0.9
    assert (centred @ predicted.T).std() == pytest.approx((centred @ rows.T).std().item(), rel=0.3)
    level = torch.quantile(rows[:250] @ states.mean(0), LEVEL)
    torch.testing.assert_close(predicted @ states.mean(0), level.expand(50), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("items", [1, 3, 12])
def test_few_items_give_finite_numbers(vectors, items):
    titles, rows, states = vectors
    assert torch.isfinite(fit_new_items(titles[:items], rows[:items], states)).all()


def test_the_bundle_contains_the_matrix_and_new_titles_use_it(tiny_base, tmp_path):
    path = export_tiny(tiny_base, tmp_path / "x.delrec").path
    matrix = np.load(path / NEW_ITEMS)
    assert matrix.dtype == np.float16
    with Recommender.load(path, threads=1) as recommender:
        title = dataset().catalog.titles[3]
        _, output = recommender.new_item(title)
        ids = recommender._new_items.tokenizer.encode(" " + title, add_special_tokens=False).ids
        vector = recommender.engine.token_vector(ids)
        assert output == pytest.approx(vector @ matrix[:-1].astype(np.float32) + matrix[-1], abs=1e-3)
        new = recommender.recommend([title], candidates=["Silver Comet", *dataset().catalog.titles[:3]], allow_new=True)
    assert len(new.items) == 4
    np.save(path / NEW_ITEMS, matrix[:-1])
    from delrec_lite.errors import BundleError

    with pytest.raises(BundleError, match="new-items.npy"):
        _ = Bundle.open(path, verify=False).new_items
