"""Softmax over a catalogue: blocks equal the whole, a sample estimates it, rows train like Adagrad, `auto` chooses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from delrec_lite.config import parse
from delrec_lite.errors import ConfigError
from delrec_lite.softmax.blocks import cross_entropy_in_blocks, sums_over_blocks
from delrec_lite.softmax.choice import LARGE, NEGATIVES, chosen_negatives, chosen_softmax, in_half_precision
from delrec_lite.softmax.negatives import Draw, NegativeSampler
from delrec_lite.softmax.rows import RATE, RowTable, rounded_at_random
from delrec_lite.softmax.sampled import Sample, divergence, first_of

ITEMS, POSITIONS, WIDTH = 300, 40, 16
POPULARITY = np.arange(ITEMS)[::-1].copy()  # the last item never occurs


@pytest.fixture
def parts():
    """States and rows with gradients, targets, and a teacher's log-probabilities."""
    generator = torch.Generator().manual_seed(0)
    states, rows = (torch.randn(n, WIDTH, generator=generator).requires_grad_() for n in (POSITIONS, ITEMS))
    targets = torch.randint(ITEMS, (POSITIONS,), generator=generator)
    teacher = F.log_softmax(2 * torch.randn(POSITIONS, ITEMS, generator=generator), 1)
    return states, rows, targets, teacher


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("size", [1, 7, 64, ITEMS, 1000])
def test_blocks_equal_the_whole_with_gradients_and_soft_targets(parts, size):
    states, rows, targets, teacher = parts
    scores = states @ rows.T
    whole = [
        F.cross_entropy(scores, targets),
        F.kl_div(F.log_softmax(scores, 1), teacher, reduction="batchmean", log_target=True),
        F.cross_entropy(scores + teacher, targets),
    ]
    sums = sums_over_blocks(states, rows, lambda start, end: teacher[:, start:end], size)
    of_targets = (states * rows[targets]).sum(1)
    in_blocks = [
        (sums.logsumexp - of_targets).mean(),
        sums.divergence,
        (sums.joint - of_targets - teacher.gather(1, targets[:, None])[:, 0]).mean(),
    ]
    for loss, expected in zip(in_blocks, whole, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(
        gradients(sum(in_blocks), states, rows), gradients(sum(whole), states, rows), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_in_blocks_is_that_of_torch(parts, smoothing):
    states, rows, targets, _ = parts
    expected = F.cross_entropy(states @ rows.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy_in_blocks(states, rows, targets, smoothing), expected)


def test_blocks_keep_no_matrix_of_all_scores(parts):
    """What the backward pass keeps does not grow with positions times items."""
    states, rows, _, _ = parts
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        sums_over_blocks(states, rows, size=30)
    assert max(kept) <= ITEMS * WIDTH < POSITIONS * ITEMS


def test_draws_depend_on_seed_and_step_and_their_weights_are_unbiased():
    sampler = NegativeSampler(POPULARITY, 64, seed=1)
    first, again, later = sampler.at(0), NegativeSampler(POPULARITY, 64, seed=1).at(0), sampler.at(1)
    np.testing.assert_array_equal(first.items, again.items)
    assert first.items.tolist() != later.items.tolist()
    assert first.items.tolist() != NegativeSampler(POPULARITY, 64, seed=2).at(0).items.tolist()
    assert (np.diff(first.items) > 0).all()
    sums, popular = np.zeros(ITEMS), 0
    for step in range(3000):
        draw = sampler.at(step)
        sums[draw.items] += np.exp(draw.log_weights)
        popular += (draw.items < ITEMS // 4).sum()
    means = sums / 3000
    assert means.mean() == pytest.approx(1, abs=0.01)
    assert np.abs(means - 1).max() < 0.35  # an item that is expected 0.1 times a step: a standard error of 0.06
    assert popular > 3000 * 64 * 0.28  # of distinct items; uniform draws would give less than a quarter


def test_without_interactions_all_draws_are_uniform():
    draw = NegativeSampler(np.zeros(50, np.int64), 1000, seed=0).at(0)
    assert len(draw.items) == 50
    assert np.exp(draw.log_weights).mean() == pytest.approx(1)


def everything(targets):
    """A sample of all items with weight one."""
    return Sample.of(targets, Draw(np.arange(ITEMS), np.zeros(ITEMS, np.float32)))


def test_a_sample_of_everything_is_the_softmax(parts):
    """So a target that was drawn too counts once."""
    states, rows, targets, teacher = parts
    sample = everything(targets)
    logits = sample.logits(states, rows[sample.items])
    scores = states @ rows.T
    torch.testing.assert_close(first_of(logits), F.cross_entropy(scores, targets))
    torch.testing.assert_close(sample.logits_of(scores), logits)
    torch.testing.assert_close(sample.mean_score(logits), scores.mean(1), rtol=1e-4, atol=1e-5)
    known = F.log_softmax(sample.logits_of(teacher), 1)
    expected = F.kl_div(F.log_softmax(scores, 1), teacher, reduction="batchmean", log_target=True)
    torch.testing.assert_close(divergence(known, logits), expected)
    assert all(g.isfinite().all() for g in gradients(divergence(known, logits), states, rows))


def test_a_target_is_no_negative_of_its_own_position_alone(parts):
    states, rows, targets, _ = parts
    sample = Sample.of(targets, Draw(np.unique(targets.numpy())[:3], np.zeros(3, np.float32)))
    logits = sample.logits(states, rows[sample.items])[:, 1:]
    drawn = sample.items[sample.negatives]
    assert torch.equal(logits == float("-inf"), drawn == targets[:, None])


def test_the_weights_make_the_sample_an_estimate_of_the_whole(parts):
    """Means over many draws: of the loss within its bias of order 1/m, of the gradient by direction and size."""
    states, rows, targets, _ = parts
    states = (states / 4).detach().requires_grad_()  # scores of a standard deviation of 1
    whole = F.cross_entropy(states @ rows.T, targets)
    expected = gradients(whole, states)[0]
    sampler = NegativeSampler(POPULARITY, 128, seed=3)
    means = {}
    for weighted in (True, False):
        losses, total = [], torch.zeros_like(expected)
        for step in range(300):
            draw = sampler.at(step)
            draw = draw if weighted else Draw(draw.items, np.zeros_like(draw.log_weights))
            sample = Sample.of(targets, draw)
            loss = first_of(sample.logits(states, rows[sample.items]))
            losses.append(loss.item())
            total += gradients(loss, states)[0]
        means[weighted] = np.mean(losses), total / 300
    assert means[True][0] == pytest.approx(whole.item(), abs=0.15)
    assert abs(means[False][0] - whole.item()) > 0.5
    gradient = means[True][1]
    assert F.cosine_similarity(gradient.flatten(), expected.flatten(), 0) > 0.98
    assert (gradient - expected).norm() < 0.25 * expected.norm()


def adagrad(values, squares, items, gradient, lr):
    """Row-wise Adagrad on dense tensors."""
    squares[items] += gradient.square().mean(1)
    values[items] -= RATE * lr * gradient / squares[items].sqrt()[:, None]


def test_rows_train_as_by_dense_adagrad_and_no_other_row_is_touched():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 8, generator=generator)
    table, dense, squares = RowTable(values.clone()), values.clone(), torch.zeros(50)
    targets = torch.randn(50, 8, generator=generator)
    for step in range(20):
        items = torch.randperm(25, generator=generator)[:6].sort().values * 2
        table.open(items)
        read = items[torch.randint(6, (9,), generator=generator)]  # an item read twice has the sum of both gradients
        torch.testing.assert_close(table.read(read), dense[read])
        (table.read(read) - targets[read]).square().sum().backward()
        gradient = torch.zeros(6, 8).index_add_(0, torch.searchsorted(items, read), 2 * (dense[read] - targets[read]))
        read_rows = gradient.abs().sum(1) > 0
        table.step(0.01 / (1 + step))
        adagrad(dense, squares, items[read_rows], gradient[read_rows], 0.01 / (1 + step))
    torch.testing.assert_close(table.values, dense)
    torch.testing.assert_close(table.squares, squares)
    assert torch.equal(table.values[1::2], values[1::2])
    assert not table.squares[1::2].any()
    assert (table.values - targets)[::2].norm() < (values - targets)[::2].norm()


def test_steps_below_the_resolution_of_half_precision_add_up():
    torch.manual_seed(0)
    value = 1 + 1 / 1024  # an eighth of the way to the next bfloat16
    rounded = rounded_at_random(torch.full((4000,), -value)).float()
    assert set(rounded.tolist()) == {-1.0, -1 - 1 / 128}
    assert rounded.mean().item() == pytest.approx(-value, abs=3e-4)
    exact = torch.randn(1000).bfloat16()
    assert torch.equal(rounded_at_random(exact.float()), exact)
    table = RowTable(torch.ones(2000, 1, dtype=torch.bfloat16))
    for _ in range(20):
        table.open(torch.arange(2000))
        (table.read(torch.arange(2000)) * 1.0).sum().backward()
        table.squares.fill_(1e6)  # a step of a 1024th times 0.1
        table.step(1000 / 1024 / RATE * 0.1)
    assert table.values.dtype == torch.bfloat16
    assert table.values.float().mean().item() == pytest.approx(1 - 20 * 0.1 / 1024, abs=4e-4)


@pytest.mark.parametrize(
    ("items", "positions", "softmax"),
    [
        (1349, 2000, "full"),  # MovieLens-100K
        (12_101, 2000, "full"),  # Beauty
        (50_000, 800, "full"),
        (50_000, 2000, "blocks"),
        (LARGE, 800, "blocks"),
        (LARGE + 1, 16, "sampled"),
        (1_000_000, 800, "sampled"),
    ],
)
def test_auto_chooses_by_the_size_of_the_catalogue(items, positions, softmax):
    assert chosen_softmax("auto", items, positions) == softmax
    assert in_half_precision("auto", items) == (softmax == "sampled")
    for setting in ("full", "blocks", "sampled"):
        assert chosen_softmax(setting, items, positions) == setting
    assert not in_half_precision("blocks", items)


def test_teachers_choose_alike():
    assert chosen_negatives(None, LARGE) == 0
    assert chosen_negatives(None, LARGE + 1) == NEGATIVES
    assert chosen_negatives(50, 1000) == 50
    assert chosen_negatives(0, 10**6) == 0
    assert chosen_negatives(1000, 1000) == 0  # all of them


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {softmax: cut}", "model.softmax"),
        ("model: {softmax: sampled, candidates_in_prompt: true}", "softmax sampled is over the catalogue"),
        ("model: {softmax: blocks, verbalizer: likelihood}", "softmax blocks is over the catalogue"),
        ("model: {negatives: 0}", "model.negatives"),
        ("model: {negatives: many}", "model.negatives"),
        ("teacher: {settings: {negatives: -1}}", "negatives"),
        ("teacher: {settings: {softmax: 1}}", "softmax"),
    ],
)
def test_the_error_of_a_bad_value_names_its_key(text, key):
    with pytest.raises(ConfigError, match=key) as refused:
        parse(f"name: r\n{text}", "r.yaml")
    assert "\n" not in str(refused.value)
