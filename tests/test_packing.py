"""Packed rows compute what each history computes alone."""

import numpy as np
import pytest
import torch

from delrec_lite.llm import forward
from delrec_lite.llm.packing import Segment, pack
from tests.tiny import dataset, make_model


@pytest.mark.parametrize("capacity", [1, 7, 1000])
def test_a_packed_history_scores_as_it_does_alone(tiny_base, monkeypatch, capacity):
    model, prompts, _ = make_model(tiny_base)
    histories = [s[:n] for s, n in zip(dataset().sequences, (1, 3, 9, 4, 2), strict=False)]
    monkeypatch.setattr(forward, "ROW_TOKENS", capacity)
    together = forward.score_histories(model, prompts, histories, 50)
    alone = np.concatenate([forward.score_histories(model, prompts, [h], 50) for h in histories])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_a_row_equals_plain_causal_evaluation(tiny_base):
    model, prompts, _ = make_model(tiny_base)
    history = dataset().sequences[0][:6]
    ids = torch.tensor([[*prompts.next_prefix, *prompts.items(history.tolist())]])
    with torch.no_grad():
        plain = model.body(inputs_embeds=model.embed(ids)).last_hidden_state[0, -1]
        expected = (plain.unsqueeze(0) @ model.head().T).numpy()
    np.testing.assert_allclose(forward.score_histories(model, prompts, [history], 50), expected, atol=2e-5)


def test_only_the_newest_items_are_read(tiny_base):
    model, prompts, _ = make_model(tiny_base)
    history = dataset().sequences[0]
    cut = forward.score_histories(model, prompts, [history], 4)
    np.testing.assert_allclose(cut, forward.score_histories(model, prompts, [history[-4:]], 50), atol=2e-5)


def test_no_token_is_lost_and_padding_is_not_read():
    packed = pack([1, 2], [Segment([10, 11, 12], [2]), Segment([20], [0]), Segment([30, 31], [0, 1])], 4)
    assert packed.ids.flatten()[packed.read].tolist() == [12, 20, 30, 31]
    assert packed.ids.shape == (2, 6)
    visible = packed.mask[0, 0]
    assert visible.any(1).all(), "a row of the mask without any place gives NaN"
    assert not visible[2:5, 5].any()
    assert not visible[5, 2:5].any(), "a segment sees its neighbour"
