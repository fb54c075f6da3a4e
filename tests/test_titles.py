"""Bundles that read titles: llama.cpp scores as trained, and another item costs the tokens of its title."""

import json
import shutil

import numpy as np
import pytest

from delrec_lite.errors import BundleError, UsageError
from delrec_lite.export.parity import compare_scores
from delrec_lite.llm.forward import score_all
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.explain import explain, faithfulness
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.verify import verify
from tests.conftest import export_tiny
from tests.formats import make_scrambled
from tests.tiny import dataset

TITLES = dataset().catalog.titles
HISTORIES = [*dataset().test().histories, *(h[-n:] for n in (1, 3) for h in dataset().test().histories)]


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "pruned"])
def exported(request, tiny_base, tmp_path_factory):
    """The bundle, and the trained model's scores of ``HISTORIES``."""
    model, prompts, base = make_scrambled(tiny_base, PromptFormat(history="titles", title_tokens=8))
    scores = score_all(model, prompts, HISTORIES, 10)
    target = tmp_path_factory.mktemp("titles") / "x.delrec"
    export_tiny(tiny_base, target, "f16", (model, prompts, base), prune_vocab=request.param)
    return target, scores, prompts


@pytest.fixture
def recommender(exported):
    with Recommender.load(exported[0], threads=1) as loaded:
        yield loaded


def test_a_bundle_that_reads_titles_scores_as_trained(exported, recommender):
    parity = compare_scores(exported[1], recommender.scores(HISTORIES))
    assert parity.score_correlation > 0.9999
    assert parity.top10_overlap > 0.99
    assert verify(exported[0]).top10_overlap == 1.0


def test_the_bundle_holds_the_tokens_of_its_titles(exported):
    path, _, prompts = exported
    bundle = Bundle.open(path)
    assert bundle.prompt.format.history == "titles"
    assert "title-tokens.npy" in bundle.manifest["files"]
    assert [len(bundle.prompts.item(i)) for i in range(len(TITLES))] == [
        len(prompts.item(i)) for i in range(len(TITLES))
    ]


def test_one_item_more_costs_its_own_tokens(exported, recommender):
    bundle = recommender.bundle
    history = dataset().test().histories[0][-6:].tolist()
    sizes = [len(bundle.prompts.item(i)) for i in history]
    costs = []
    for n in range(1, 7):
        scores, cost = recommender.engine.score_session("u", history[:n])
        costs.append(cost)
        np.testing.assert_allclose(scores, recommender.scores([history[:n]])[0], atol=2e-2)
    assert costs == sizes
    titles = [TITLES[i] for i in history]
    answer = recommender.recommend(titles, session="other")
    assert answer.tokens_computed == sum(sizes) == recommender.tokens(titles)
    assert answer.tokens_avoided == len(bundle.prompt.prefix)
    more = recommender.recommend([*titles, TITLES[2]], session="other")
    assert more.tokens_computed == len(bundle.prompts.item(2))


def test_a_history_that_does_not_fit_loses_its_oldest_items(tiny_base, tmp_path):
    model, prompts, base = make_scrambled(tiny_base, PromptFormat(history="titles", title_tokens=8, context=60))
    histories = [h for h in dataset().test().histories if len(h) > 9]
    scores = score_all(model, prompts, histories, 10)
    exported = export_tiny(tiny_base, tmp_path / "x.delrec", "f16", (model, prompts, base))
    with Recommender.load(exported.path, threads=1) as recommender:
        read, tokens = recommender.engine.count_tokens(histories[0].tolist())
        assert read < 10
        assert len(prompts.next_prefix) + tokens <= 60
        assert compare_scores(scores, recommender.scores(histories)).score_correlation > 0.9999
        explanation = explain(recommender, [TITLES[i] for i in histories[0]])
        assert sum(contribution.read for contribution in explanation.contributions) == read


def test_many_sessions_share_a_limited_memory(exported, monkeypatch):
    """More tokens than fit: the oldest sessions are evicted, and every session gets its own answer."""
    monkeypatch.setattr("delrec_lite.runtime.engines.llama_cpp.SESSION_TOKENS", 100)  # room for one history
    with Recommender.load(exported[0], threads=1) as recommender:
        histories = [[(n + k) % 30 for k in range(10)] for n in range(20)]
        costs = [recommender.engine.count_tokens(history)[1] for history in histories]
        assert min(costs) > 50
        expected = recommender.scores(histories)
        assert min(np.abs(a - b).max() for a, b in zip(expected, expected[1:], strict=False)) > 0.5
        for _ in range(2):
            for n, history in enumerate(histories):
                scores, cost = recommender.engine.score_session(f"u{n}", history)
                assert cost == costs[n]
                np.testing.assert_allclose(scores, expected[n], atol=0.06)  # F16 in batches of other shapes: 0.03


def test_a_new_title_is_read_by_its_words(exported, recommender):
    """A title of the catalogue, given as words, is that item's own tokens."""
    words = recommender.new_entry(TITLES[4])
    assert words + recommender.bundle.prompts.separator == recommender.bundle.prompts.item(4)
    np.testing.assert_allclose(recommender.engine.scores([[3, words]]), recommender.scores([[3, 4]]), atol=1e-3)
    with pytest.raises(UsageError, match="no item is called"):
        recommender.recommend([TITLES[3], "Violet Forest of Tomorrow"], on_unknown="refuse")
    answer = recommender.recommend(
        [TITLES[3], "Violet Forest of Tomorrow"], allow_new=True, candidates=["Grey Sea", TITLES[5]]
    )
    assert {item.title for item in answer.items} == {"Grey Sea", TITLES[5]}


def test_an_added_item_is_read_by_its_words_and_scored_by_its_title(exported, tmp_path):
    first = add_items(exported[0], {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec")
    add_items(first.folder, {"n2": "Grey Sea (2021)"})
    with Recommender.load(exported[0], threads=1) as before, Recommender.load(first.folder, threads=1) as after:
        by_words = before.engine.scores([[3, before.new_entry("Violet Forest (2020)")]])[0]
        by_id = after.scores([[3, 30]])[0]
        assert len(by_id) == 32
        np.testing.assert_allclose(by_id[:30], by_words, atol=1e-3)
        assert "n2" in [item.id for item in after.recommend([TITLES[3]], k=40).items]
        assert after.recommend([TITLES[3], "id:n1"], session="u").tokens_computed > 0


def test_every_item_of_a_history_is_explained(recommender):
    history = [TITLES[i] for i in dataset().test().histories[0][-4:]]
    explanation = explain(recommender, history)
    assert [contribution.title for contribution in explanation.contributions] == history
    assert all(contribution.read for contribution in explanation.contributions)
    assert faithfulness(recommender, dataset().test().histories[:6]).users == 6


@pytest.mark.parametrize("entry", [(), (10**6,), (-1,), np.zeros(64, np.float32), "Alien", 30])
def test_invalid_entries_are_refused(recommender, entry):
    with pytest.raises(UsageError):
        recommender.engine.scores([[1, entry]])


def spoilt(exported, tmp_path, change):
    """A copy whose title tokens were changed, with a manifest that fits them."""
    from delrec_lite.files import sha256_of

    folder = shutil.copytree(exported[0], tmp_path / "spoilt.delrec")
    path = folder / "title-tokens.npy"
    change(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 4), np.int32),
        np.full((30, 4), -1, np.int32),
        np.full((30, 4), 10**6, np.int32),
        np.zeros((30, 4), np.int64),
        np.tile(np.array([1, -1, 1], np.int32), (30, 1)),
        np.zeros((30, 0), np.int32),
    ],
)
def test_title_tokens_that_do_not_fit_are_refused(exported, tmp_path, rows):
    with pytest.raises(BundleError, match="title-tokens"):
        Recommender.load(spoilt(exported, tmp_path, lambda path: np.save(path, rows)))


def test_cut_title_tokens_are_refused(exported, tmp_path):
    with pytest.raises(BundleError, match="title-tokens"):
        Recommender.load(spoilt(exported, tmp_path, lambda path: path.write_bytes(path.read_bytes()[:40])))
