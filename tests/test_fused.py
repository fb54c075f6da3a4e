"""The scores of a model mixed with those of its bundle's teacher, by the weight chosen on validation users."""

import json
import shutil

import numpy as np
import pytest

from delrec_lite.errors import BundleError, UsageError
from delrec_lite.evaluation.fusion import best_weight, mix
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.hybrid import WEIGHT, HybridEngine
from delrec_lite.runtime.manifest import MANIFEST
from delrec_lite.runtime.recommender import Recommender
from tests.tiny import dataset


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_scores_are_mixed_as_log_probabilities():
    rng = np.random.default_rng(0)
    scores, teacher_scores = rng.normal(size=(3, 6)).astype(np.float32), rng.normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(mix(scores, teacher_scores, 0.0), scores, atol=1e-6)
    np.testing.assert_allclose(softmax(mix(scores, teacher_scores + 5, 1.0)), softmax(teacher_scores), atol=1e-6)
    product = softmax(scores) ** 0.7 * softmax(teacher_scores) ** 0.3
    expected = product / product.sum(1, keepdims=True)
    np.testing.assert_allclose(softmax(mix(scores, teacher_scores, 0.3)), expected, atol=1e-6)


def test_items_without_teacher_scores_keep_their_probability():
    scores = np.array([[2.0, 1.0, 0.0, 1.5]], np.float32)
    mixed = mix(scores, np.array([[0.0, 3.0]], np.float32), 1.0)
    np.testing.assert_allclose(mixed[:, 2:], scores[:, 2:])
    np.testing.assert_allclose(softmax(mixed)[:, :2].sum(), softmax(scores)[:, :2].sum(), atol=1e-6)
    assert mixed[0, 1] - mixed[0, 0] == pytest.approx(3.0, abs=1e-6)


def test_the_best_weight_favours_the_better_scorer():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 8, 50)
    knowing = np.eye(8, dtype=np.float32)[targets] * 5
    guessing = rng.normal(size=(50, 8)).astype(np.float32)
    assert best_weight(knowing, guessing, targets) < 0.2
    assert best_weight(guessing, knowing, targets) > 0.8


def with_weight(folder, target, weight):
    copy = shutil.copytree(folder, target)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["model"][WEIGHT] = weight
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def test_export_keeps_the_weight_that_validation_users_chose(teacher_bundle):
    path, teacher = teacher_bundle
    weight = Bundle.open(path).manifest["model"][WEIGHT]
    valid = dataset().valid()
    with Recommender.load(path, threads=1) as recommender:
        scores = recommender.scores(valid.histories)
    assert weight == best_weight(scores, teacher.scores(valid.histories), valid.targets)


def test_hybrid_answers_mix_both_with_and_without_a_session(teacher_bundle, tmp_path):
    path, teacher = teacher_bundle
    path = with_weight(path, tmp_path / "t.delrec", 0.4)
    histories = dataset().test().histories[:6]
    with Recommender.load(path, threads=1) as model, Recommender.load(path, threads=1, fused=True) as hybrid:
        expected = mix(model.scores(histories), teacher.scores(histories), 0.4)
        np.testing.assert_allclose(hybrid.scores(histories), expected, atol=1e-3)
        titles = [model.bundle.items.titles[i] for i in histories[0]]
        cold, cached = hybrid.recommend(titles), hybrid.recommend(titles, session="u")
        assert [i.title for i in cold.items] == [i.title for i in cached.items]
        remaining = expected[0].copy()
        remaining[histories[0]] = -np.inf
        assert [i.title for i in cold.items] == [model.bundle.items.titles[i] for i in np.argsort(-remaining)[:10]]
        assert np.abs(expected - model.scores(histories)).max() > 0.1


def test_items_unknown_to_the_teacher_keep_the_scores_of_the_model(teacher_bundle, tmp_path):
    path = with_weight(teacher_bundle[0], tmp_path / "t.delrec", 0.5)
    new = add_items(path, {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec").folder
    with Recommender.load(new, threads=1) as model, Recommender.load(new, threads=1, fused=True) as hybrid:
        added = len(model.bundle.items.ids) - 1
        np.testing.assert_array_equal(
            hybrid.scores([[added]]), model.scores([[added]])
        )  # the teacher does not know this item
        np.testing.assert_allclose(hybrid.scores([[3, added]])[0, added], model.scores([[3, added]])[0, added])
        assert np.abs(hybrid.scores([[3, added]]) - model.scores([[3, added]])).max() > 0.01
        request = {"history": ["Purple Cactus"], "allow_new": True}
        assert hybrid.recommend(**request).items == model.recommend(**request).items
        # A new candidate is compared with trained ones on one scale.
        among = {"history": [model.bundle.items.titles[3]], "candidates": ["Purple Cactus"], "allow_new": True}
        assert hybrid.recommend(**among).items[0].score == model.recommend(**among).items[0].score


def test_tokens_are_counted_once_through_both_wrappers(teacher_bundle, tmp_path):
    path = with_weight(teacher_bundle[0], tmp_path / "t.delrec", 0.5)
    new = add_items(path, {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec").folder
    with Recommender.load(new, threads=1, fused=True) as hybrid:
        titles = hybrid.bundle.items.titles[:8]
        request = {"candidates": ["Purple Cactus", titles[0]], "allow_new": True, "session": "u"}
        answers = [hybrid.recommend(titles[:-1], session="u"), hybrid.recommend(titles, session="u")]
        answers.append(hybrid.recommend(titles, **request))
        prefix = len(hybrid.bundle.prompt.prefix)
    counts = [(answer.tokens_computed, answer.tokens_avoided) for answer in answers]
    assert counts == [(7, prefix), (1, prefix + 7), (1, prefix + 7)]


def test_mixing_without_a_teacher_or_a_weight_is_refused(teacher_bundle, tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="no teacher to mix with"):
        Recommender.load(tiny_bundle, fused=True)
    for n, (weight, error) in enumerate([(None, UsageError), ("much", BundleError), (1.5, BundleError)]):
        with pytest.raises(error):
            Recommender.load(with_weight(teacher_bundle[0], tmp_path / f"{n}.delrec", weight), fused=True)


def test_the_command_mixes_with_fused(teacher_bundle, tmp_path, capsys):
    from typer.testing import CliRunner

    from delrec_lite.cli.app import app

    path = with_weight(teacher_bundle[0], tmp_path / "t.delrec", 1.0)
    command = ["recommend", str(path), "--history", dataset().catalog.titles[3], "--json", "--quiet"]
    answers = [json.loads(CliRunner().invoke(app, [*command, *more]).stdout)["items"] for more in ([], ["--fused"])]
    scores = teacher_bundle[1].scores([np.array([3])])[0]
    scores[3] = -np.inf
    assert answers[1][0]["title"] == dataset().catalog.titles[scores.argmax()]
    assert answers[0] != answers[1]


def test_the_server_mixes_with_fused(teacher_bundle, tmp_path):
    from delrec_lite.server.serve import Settings, load

    path = with_weight(teacher_bundle[0], tmp_path / "t.delrec", 0.5)
    for fused in (False, True):
        with load(path, Settings(threads=1, fused=fused)) as recommender:
            assert isinstance(recommender.engine, HybridEngine) == fused
