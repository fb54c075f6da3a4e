"""Explanations: contributions are differences of log-probability, computed here by hand, and they are faithful."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.errors import UsageError
from delrec_lite.runtime.explain import explain, faithfulness
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import MAX_HISTORY, TITLES, tiny_bundle
from tests.tiny import dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def recommender(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as loaded:
        yield loaded


def log_probabilities(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def test_a_contribution_is_the_log_probability_lost_without_the_item(tiny, recommender):
    history = [3, 8, 21]
    explanation = explain(recommender, [TITLES[i] for i in history], TITLES[30])
    target = log_probabilities(tiny.scores([history])[0])[30]
    for n, contribution in enumerate(explanation.contributions):
        without = log_probabilities(tiny.scores([history[:n] + history[n + 1 :]])[0])[30]
        assert contribution.weight == pytest.approx(target - without, abs=0.03)
        assert contribution.title == TITLES[history[n]]
    assert explanation.title == TITLES[30]
    assert explanation.probability == pytest.approx(np.exp(target), rel=0.05)


def test_by_default_the_first_recommendation_is_explained(recommender):
    history = TITLES[:4]
    explanation = explain(recommender, history)
    assert explanation.title == recommender.recommend(history, k=1).items[0].title
    assert explanation.rank == 1
    assert explain(recommender, history, history[0]).rank == 0


def test_one_item_is_compared_with_an_even_chance(tiny, recommender):
    explanation = explain(recommender, [TITLES[5]], TITLES[6])
    expected = log_probabilities(tiny.scores([[5]])[0])[6] + np.log(len(TITLES))
    assert explanation.contributions[0].weight == pytest.approx(expected, abs=0.03)


def test_items_that_the_prompt_does_not_hold_have_no_weight(recommender):
    explanation = explain(recommender, TITLES[: MAX_HISTORY + 2])
    assert [c.read for c in explanation.contributions] == [False] * 2 + [True] * MAX_HISTORY
    assert [c.weight for c in explanation.contributions[:2]] == [0.0, 0.0]


def test_the_top_item_matters_more_than_a_random_one(recommender):
    rng = np.random.default_rng(0)
    report = faithfulness(recommender, [rng.choice(40, 6, replace=False) for _ in range(40)])
    assert report.users == 40
    assert report.top > report.random
    assert report.test.p < 0.01
    with pytest.raises(UsageError):
        faithfulness(recommender, [np.array([1])])


def test_bad_requests_are_refused(recommender):
    with pytest.raises(UsageError, match="empty"):
        explain(recommender, [])
    with pytest.raises(UsageError, match="nothing of the history is in the catalogue"):
        explain(recommender, ["Zzz"])
    with pytest.raises(UsageError, match="no item is called"):
        explain(recommender, [TITLES[0]], "Zzz")
    with pytest.raises(UsageError, match="whole catalogue"):
        explain(recommender, TITLES)


def test_the_command(tiny_bundle):
    options = ["explain", str(tiny_bundle), "--threads", "1"]
    done = CliRunner().invoke(app, [*options, "--history", "id:i3", "--history", "id:i4", "--json"])
    explanation = json.loads(done.stdout)
    assert [c["read"] for c in explanation["contributions"]] == [True, True]
    done = CliRunner().invoke(app, [*options, "--faithfulness", "-n", "5", "--json"])
    assert json.loads(done.stdout)["users"] == 5


def test_search_finds_titles_by_words_and_the_popular_by_none(recommender):
    assert recommender.search("red rivr", 3)[0].title == "Red River (1950)"
    assert len(recommender.search("", 5)) == 5


@pytest.fixture(scope="module")
def recommender_and_teacher(teacher_bundle):
    """A recommender over the bundle with a teacher, and that teacher."""
    path, teacher = teacher_bundle
    with Recommender.load(path, threads=1) as loaded:
        yield loaded, teacher


def test_an_explanation_has_the_ranking_of_the_teacher(recommender_and_teacher):
    recommender, teacher = recommender_and_teacher
    titles = recommender.bundle.items.titles
    history = [3, 1, 4]
    explanation = explain(recommender, [titles[i] for i in history])
    scores = teacher.scores([np.array(history)])[0]
    scores[history] = -np.inf
    assert explanation.teacher.kinds == ("sasrec",)
    assert explanation.teacher.first == titles[scores.argmax()]
    assert explanation.teacher.agrees == (explanation.title == explanation.teacher.first)
    target = titles.index(explanation.title)
    assert explanation.teacher.rank == 1 + (scores > scores[target]).sum()
    ranking = recommender.teacher_ranking([titles[i] for i in history], k=3)
    assert [item.title for item in ranking] == [titles[i] for i in np.argsort(-scores)[:3]]
    assert 0 <= explanation.teacher.shared <= 1


def test_the_soft_prompt_lies_nearest_to_words(recommender_and_teacher):
    recommender, _ = recommender_and_teacher
    words = explain(recommender, [recommender.bundle.items.titles[0]]).soft_words
    assert len(words) == recommender.bundle.prompt.soft_tokens
    assert all(len(nearest) == 3 for nearest in words)


def test_without_a_teacher_there_is_no_teacher_ranking(recommender):
    assert explain(recommender, TITLES[:2]).teacher is None
    with pytest.raises(UsageError, match="has no teacher that can be run"):
        recommender.teacher_ranking(TITLES[:2])


def test_the_report_on_explanations(tiny_bundle, tmp_path, capsys):
    from delrec_lite.bench import explain as report
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import candidates

    data = dataset()
    data = make_dataset("ring", data.catalog, data.user_ids, data.sequences)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, Settings(2, 5, 3), tmp_path / "ring")
    out = tmp_path / "faithfulness.json"
    report.main([str(tiny_bundle), "--dataset", str(tmp_path / "ring"), "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["users"] == len(data.user_ids)
    assert report["machine"]["cores_allowed"] > 0
    assert report["cost"]["requests' time"] == pytest.approx(
        report["cost"]["explain"]["p50"] / report["cost"]["recommend"]["p50"], abs=0.01
    )
    printed = capsys.readouterr()
    assert "random" in printed.err
    assert printed.out == ""  # only a report without --out is printed there
