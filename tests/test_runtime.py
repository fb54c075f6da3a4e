"""The engine and the recommender."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from delrec_lite.errors import BundleError, MissingPackageError, UsageError
from delrec_lite.runtime.engines.llama_batch import BATCH_TOKENS, SEQUENCES, group_rows, merge_histories
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from delrec_lite.runtime.gguf.rows import TokenRows
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import MAX_HISTORY, TITLES, tiny_bundle
from tests.tiny import ITEMS, dataset

HISTORIES = [[3], [3, 4], [4, 3], list(range(7)), list(range(25, 5, -1))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def engine(tiny):
    engine = LlamaEngine(tiny.bundle, threads=1)
    yield engine
    engine.close()


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_engine_computes_the_llama_of_the_file(engine, tiny):
    """Prefix evaluated once and shared, all requests in one batch; the reference evaluates each from scratch."""
    for _ in range(2):
        assert cosines(engine.hidden_states(HISTORIES), tiny.hidden_states(HISTORIES)).min() > 0.9999
        np.testing.assert_allclose(engine.scores(HISTORIES), tiny.scores(HISTORIES), atol=0.02)


def test_a_common_beginning_of_histories_is_evaluated_once():
    vector = np.ones(3, np.float32)
    batch, ends = merge_histories([[5, 6, 7], [5, 6, 8], [5, 6], [6, 5], [vector, 6], [vector.copy(), 6, 7], [5, 6, 7]])
    tokens = [(t.token if isinstance(t.token, int) else "v", t.position, t.sequences) for t in batch]
    assert tokens == [
        (5, 0, [1, 2, 3, 7]),
        (6, 1, [1, 2, 3, 7]),
        (7, 2, [1, 7]),
        (8, 2, [2]),
        (6, 0, [4]),
        (5, 1, [4]),
        ("v", 0, [5, 6]),
        (6, 1, [5, 6]),
        (7, 2, [6]),
    ]
    assert ends == [2, 3, 1, 5, 7, 8, 2]


def test_groups_contain_every_request_once_in_order():
    lengths = [1] * (SEQUENCES + 3) + [BATCH_TOKENS - 1, 2, 2 * BATCH_TOKENS, 1]
    groups = list(group_rows(lengths))
    assert [row for group in groups for row in group] == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= SEQUENCES
        assert len(group) == 1 or sum(lengths[row] for row in group) <= BATCH_TOKENS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item_token_base": 1}, "tokens; prompt and catalogue need"),
        ({"prefix": [10**6]}, "outside the vocabulary"),
        ({"prefix": []}, "outside the vocabulary"),
        ({"max_history": 1000}, "tokens; .* reads 256"),
        ({"max_history": 0}, "max_history"),
        ({"declared_hidden": 65}, "has width 64"),
    ],
)
def test_a_model_that_does_not_fit_its_prompt_is_refused(tmp_path, changed, message):
    with pytest.raises(BundleError, match=message):
        Recommender.load(tiny_bundle(tmp_path, **changed).bundle.folder)


def test_a_missing_library_is_a_clear_error(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingPackageError) as error:
        LlamaEngine(tiny.bundle)
    assert "delrec-lite[gguf]" in error.value.hint
    with pytest.raises(UsageError, match="threads"):
        LlamaEngine(tiny.bundle, threads=0)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "BF16"])
def test_rows_equal_those_that_the_gguf_package_reads(tmp_path, kind):
    import gguf

    kind = gguf.GGMLQuantizationType[kind]
    rows = np.random.default_rng(1).standard_normal((9, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_token_list(["a", "b" * 300])
    writer.add_array("scores", [1.5, 2.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("first", np.ones(3, np.float32))
    packed = rows.astype(np.float16) if kind.name == "F16" else gguf.quants.quantize(rows, kind)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(packed, kind)
    token_rows = TokenRows(tmp_path / "x.gguf")
    np.testing.assert_array_equal(np.stack([token_rows.row(i) for i in range(9)]), expected)
    np.testing.assert_allclose(token_rows.mean([1, 4, 4]), expected[[1, 4, 4]].mean(0), rtol=1e-5, atol=1e-7)
    with pytest.raises(BundleError, match="none for token 9"):
        token_rows.row(9)
    content = (tmp_path / "x.gguf").read_bytes()
    for cut in (3, 20, 60, 200, len(content) - 100):
        (tmp_path / "cut.gguf").write_bytes(content[:cut])
        with pytest.raises(BundleError, match="cannot be read as GGUF"):
            TokenRows(tmp_path / "cut.gguf").row(0)


def test_a_request_without_items_to_rank_gets_an_empty_answer(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        assert recommender.recommend(TITLES).items == []
        assert [len(ranking) for ranking in recommender.recommend_batch([TITLES, TITLES[:1]], k=3)] == [0, 3]
        assert len(recommender.recommend(TITLES, k=99, exclude_history=False).items) == len(TITLES)
        with pytest.raises(UsageError, match="no candidates"):
            recommender.recommend(TITLES[:1], candidates=[])
        twice = recommender.recommend(TITLES[:1], candidates=[TITLES[5], "red winter", TITLES[5], TITLES[4]])
        assert [i.title for i in twice.items].count(TITLES[5]) == 1
        assert len(twice.items) == 2


def test_a_batch_recommends_as_single_requests(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        histories = [[TITLES[i] for i in h] for h in HISTORIES]
        for history, answer in zip(histories, recommender.recommend_batch(histories, k=5), strict=True):
            alone = recommender.recommend(history, k=5).items
            assert [i.title for i in answer] == [i.title for i in alone]
            assert [i.score for i in answer] == pytest.approx([i.score for i in alone], abs=0.02)
            assert not {i.title for i in answer} & set(history)
        with pytest.raises(UsageError, match="k is 0"):
            recommender.recommend_batch(histories, 0)
        with pytest.raises(UsageError, match="no item is called"):
            recommender.recommend_batch([["no such thing at all"]], 3, on_unknown="refuse")


def test_items_of_a_long_history_beyond_the_prompt_are_still_excluded(tiny):
    with Recommender.load(tiny.bundle.folder, threads=1) as recommender:
        answer = recommender.recommend(TITLES[: MAX_HISTORY + 5], k=99)
        assert {i.title for i in answer.items} == set(TITLES[MAX_HISTORY + 5 :])


@pytest.fixture
def recommender(tiny_bundle):
    with Recommender.load(tiny_bundle, threads=1) as loaded:
        yield loaded


def test_a_batch_scores_as_single_requests(recommender):
    histories = [s[: 1 + n % 12] for n, s in enumerate(dataset().sequences)] * 2
    together = recommender.scores(histories)
    alone = np.concatenate([recommender.scores([h]) for h in histories])
    np.testing.assert_allclose(together, alone, atol=2e-2)
    assert (together.argmax(1) == alone.argmax(1)).mean() > 0.95


def test_order_and_every_item_of_a_history_change_the_scores(recommender):
    history = list(range(6))
    forward, backward, shorter = (recommender.scores([h])[0] for h in (history, history[::-1], history[1:]))
    assert np.abs(forward - backward).max() > 0.05
    assert np.abs(forward - shorter).max() > 0.01


def test_recommend_ranks_the_catalogue_without_the_history(recommender):
    titles = dataset().catalog.titles
    answer = recommender.recommend([titles[3], titles[4]], k=ITEMS)
    assert [i.rank for i in answer.items] == list(range(1, ITEMS - 1))
    assert not {titles[3], titles[4]} & {i.title for i in answer.items}
    scores = [i.score for i in answer.items]
    assert scores == sorted(scores, reverse=True)
    assert sum(i.probability for i in answer.items) == pytest.approx(1, abs=1e-4)
    expected = recommender.scores([[3, 4]])[0]
    assert answer.items[0].title == titles[int(np.argmax(np.where(np.isin(np.arange(ITEMS), [3, 4]), -1e9, expected)))]
    assert set(answer.milliseconds) == {"match", "encode", "prefill", "sort"}


def test_candidates_are_all_ranked_and_nothing_else(recommender):
    titles = dataset().catalog.titles
    answer = recommender.recommend([titles[0]], candidates=[titles[5], titles[0], titles[9]])
    assert {i.title for i in answer.items} == {titles[5], titles[0], titles[9]}
    expected = recommender.scores([[0]])[0]
    for item in answer.items:
        assert item.score == pytest.approx(float(expected[titles.index(item.title)]), abs=1e-4)


def test_a_new_title_is_encoded_by_its_words(recommender):
    titles = dataset().catalog.titles
    with pytest.raises(UsageError, match="Purple Cactus"):
        recommender.recommend(["Purple Cactus"], on_unknown="refuse")
    answer = recommender.recommend([titles[0], "Purple Cactus"], allow_new=True, k=3)
    assert answer.matched[1].item == -1
    # An untrained item is its title: the words of a known title give the scores of its item.
    vector = recommender.new_item(titles[7])[0]
    np.testing.assert_allclose(recommender.engine.scores([[0, vector]]), recommender.scores([[0, 7]]), atol=3e-2)
    answer = recommender.recommend([titles[0]], candidates=["Purple Cactus", titles[2]], allow_new=True)
    assert {i.title for i in answer.items} == {"Purple Cactus", titles[2]}


@pytest.mark.parametrize("title", ["<|im_start|>", "<|delrec_0|> x", "<|endoftext|>"])
def test_special_tokens_in_a_title_stay_text(recommender, title):
    ids = recommender._new_items.tokenizer.encode(" " + title, add_special_tokens=False).ids
    assert len(ids) > 2
    assert min(ids) > 2
    assert recommender.recommend([title], allow_new=True, k=2).items


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": ["Red River"], "k": 0}, "k is 0"),
        ({"history": [" "], "on_unknown": "refuse"}, "empty"),
        ({"history": ["id:nope"], "on_unknown": "refuse"}, "no item has the id"),
        ({"history": [], "on_unknown": "drop"}, "on_unknown is 'drop'"),
    ],
)
def test_bad_requests_are_refused(recommender, arguments, message):
    with pytest.raises(UsageError, match=message):
        recommender.recommend(**arguments)


def test_each_thread_gets_the_answer_to_its_request(recommender):
    histories = [[n, n + 1] for n in range(8)]
    expected = recommender.scores(histories)
    scores = {}

    def ask(n):
        for _ in range(5):
            scores[n] = recommender.scores([histories[n]])[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(8):
        np.testing.assert_allclose(scores[n], expected[n], atol=2e-2)


def test_serving_needs_no_torch(tiny_bundle):
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'peft', 'pydantic'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from delrec_lite.runtime.recommender import Recommender\n"
        f"r = Recommender.load({str(tiny_bundle)!r}, threads=1)\n"
        "print(r.recommend(['Red River'], k=2).items[0].title)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() in dataset().catalog.titles
    assert process.stderr == "", "llama.cpp writes to stderr"
