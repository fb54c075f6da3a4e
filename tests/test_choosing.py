"""Bundles that rank candidates alone: letters, likelihoods and listed titles, llama.cpp scores them as torch does."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.bench.plan import Plan
from delrec_lite.bench.runner import bench
from delrec_lite.cli.app import app
from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.export import prune as pruning
from delrec_lite.llm.questions import score_candidates
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.gguf.header import read_header
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.verify import verify
from tests.conftest import export_tiny
from tests.formats import CANDIDATES_ONLY, FORMATS, make_scrambled
from tests.tiny import candidates, dataset, write_base

TITLES = dataset().catalog.titles
# Lengths 10, 4 and 1 in turn.
HISTORIES = [h[-(10, 4, 1)[n % 3] :] for n, h in enumerate(dataset().test().histories)]
SETS = candidates().items


@pytest.fixture(scope="module", params=CANDIDATES_ONLY)
def exported(request, tmp_path_factory):
    """The bundle, the trained model's scores of ``HISTORIES`` and ``SETS``, the prompt format."""
    prompt_format, folder = FORMATS[request.param], tmp_path_factory.mktemp("choosing")
    base_folder = write_base(folder / "base", [" watermelon elephants umbrella"] * 50)  # words that are in no title
    model, prompts, base = make_scrambled(base_folder, prompt_format)
    scores = score_candidates(model, prompts, HISTORIES, SETS, 10)
    target = folder / "x.delrec"
    sets = {split: candidates(split) for split in ("valid", "test")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pruning, "COMMON", 0)
        export_tiny(base_folder, target, "f16", (model, prompts, base), prune_vocab=True, candidates=sets)
    return target, scores, prompt_format


@pytest.fixture
def recommender(exported):
    with Recommender.load(exported[0], threads=1) as loaded:
        yield loaded


def test_candidates_score_as_trained(exported, recommender):
    served = recommender.score_candidates(HISTORIES, SETS)
    expected = exported[1]
    a, b = served - served.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    assert (np.argsort(-served, 1) == np.argsort(-expected, 1)).mean() > 0.97
    np.testing.assert_allclose(served, expected, atol=0.05 + 0.01 * np.abs(expected).max())
    assert verify(exported[0]).top10_overlap == 1.0


def test_titles_are_ranked_by_their_scores(exported, recommender):
    history, chosen = [TITLES[i] for i in HISTORIES[0]], [TITLES[i] for i in SETS[0]]
    answer = recommender.recommend(history, candidates=chosen)
    expected = np.argsort(-recommender.score_candidates([HISTORIES[0]], SETS[:1])[0])
    assert [item.title for item in answer.items] == [chosen[n] for n in expected]
    assert answer.tokens_computed == recommender.tokens(history, chosen)
    assert answer.tokens_avoided == len(recommender.bundle.prompt.prefix)


def test_a_session_computes_only_new_tokens(recommender):
    history, chosen = [TITLES[i] for i in HISTORIES[0]], [TITLES[i] for i in SETS[0]]
    recommender.recommend(history[:-1], candidates=chosen, session="u")
    more = recommender.recommend(history, candidates=chosen, session="u")
    plain = recommender.recommend(history, candidates=chosen)
    assert [item.title for item in more.items] == [item.title for item in plain.items]
    before = sum(len(recommender.bundle.prompts.item(int(i))) for i in HISTORIES[0][:-1])
    assert plain.tokens_computed - more.tokens_computed == before
    assert more.tokens_avoided == plain.tokens_avoided + before


def test_requests_do_not_affect_each_other(recommender):
    first = recommender.score_candidates(HISTORIES[:3], SETS[:3])
    recommender.score_candidates(HISTORIES[3:9], SETS[3:9])
    np.testing.assert_allclose(recommender.score_candidates(HISTORIES[:3], SETS[:3]), first, atol=1e-3)


def test_without_candidates_there_is_one_clear_error(exported, recommender):
    history = [TITLES[3]]
    for call in (
        lambda: recommender.recommend(history),
        lambda: recommender.recommend(history, session="u"),
        lambda: recommender.recommend_batch([history]),
        lambda: explain(recommender, history),
    ):
        with pytest.raises(UsageError, match="ranks candidates and no other items") as error:
            call()
        assert "--candidates" in error.value.hint
    answer = CliRunner().invoke(app, ["recommend", str(exported[0]), "--history", TITLES[3]])
    assert isinstance(answer.exception, UsageError)
    with pytest.raises(UsageError, match="ranks candidates"):
        add_items(exported[0], {"n1": "Violet Forest"})


def test_new_titles_can_be_candidates_where_words_score_them(exported, recommender):
    prompt_format = exported[2]
    names = ["Violet Forest (2020)", TITLES[4]]
    kind = prompt_format.verbalizer_kind
    if prompt_format.history_format.titles and not kind.item_rows:
        answer = recommender.recommend([TITLES[3], "Grey Sea"], candidates=names, allow_new=True)
        assert {item.title for item in answer.items} == set(names)
    elif kind.titles or kind.item_rows:
        with pytest.raises(UsageError):
            recommender.recommend([TITLES[3]], candidates=names, allow_new=True)


def test_too_many_candidates_for_the_prompt_are_refused(exported, recommender):
    if exported[2].candidates:
        with pytest.raises(DelrecError, match="labels for them|no room|catalogue alone|text tokens"):
            recommender.recommend([TITLES[3]], candidates=[f"Violet Forest {n}" for n in range(200)], allow_new=True)


def test_the_bench_times_the_workloads_with_candidates(exported):
    def probe(job):
        assert all(request["candidates"] for request in job["requests"])
        return {"total": 5.0, "start": 1.0, "import": 1.0, "load": 2.0, "answer": 1.0, "peak_rss_bytes": 2_000_000}

    report = bench([exported[0]], Plan(["cold", "rerank", "load"], [1], repeats=2), probe=probe)
    assert [(r.workload, r.accuracy.get("protocol")) for r in report.results] == [("rerank", "sampled"), ("load", None)]
    assert report.results[0].tokens > 0
    with pytest.raises(UsageError, match="ranks candidates alone"):
        bench([exported[0]], Plan(["cold"], [1]), probe=probe)


def test_only_tokens_that_are_read_or_scored_have_a_row(exported, recommender):
    facts = json.loads((exported[0] / "manifest.json").read_text())["model"]
    text_rows = facts["text_tokens"]["kept"] + recommender.bundle.prompt.soft_tokens
    rows = text_rows + (len(TITLES) if exported[2].item_tokens else 0)
    header = read_header(recommender.bundle.model_path)
    assert [header.tensors[name].shape[1] for name in ("token_embd.weight", "output.weight")] == [rows, rows]
    assert (facts["text_tokens"]["kept"] == facts["text_tokens"]["of"]) == exported[2].verbalizer_kind.all_text
