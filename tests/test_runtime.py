"""The bundle, the engine and the recommender."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from delrec_lite.errors import BundleError, UsageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.tiny import ITEMS, dataset


@pytest.fixture
def recommender(tiny_bundle):
    with Recommender.load(tiny_bundle, threads=1) as loaded:
        yield loaded


def test_many_at_once_equal_one_by_one(recommender):
    histories = [s[: 1 + n % 12] for n, s in enumerate(dataset().sequences)] * 2
    together = recommender.scores(histories)
    alone = np.concatenate([recommender.scores([h]) for h in histories])
    np.testing.assert_allclose(together, alone, atol=2e-2)
    assert (together.argmax(1) == alone.argmax(1)).mean() > 0.95


def test_order_and_every_item_of_a_history_count(recommender):
    history = list(range(6))
    plain, turned, shorter = (recommender.scores([h])[0] for h in (history, history[::-1], history[1:]))
    assert np.abs(plain - turned).max() > 0.05
    assert np.abs(plain - shorter).max() > 0.01


def test_a_request_leaves_no_trace_for_the_next(recommender):
    first = recommender.scores([[1, 2, 3]])
    recommender.scores([[9, 8, 7, 6]] * 20)
    np.testing.assert_allclose(recommender.scores([[1, 2, 3]]), first, atol=1e-4)


def test_only_the_newest_items_are_read(recommender):
    long = list(range(ITEMS))
    np.testing.assert_allclose(recommender.scores([long]), recommender.scores([long[-10:]]), atol=1e-4)


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


def test_a_new_title_is_taken_by_its_words(recommender):
    titles = dataset().catalog.titles
    with pytest.raises(UsageError, match="Purple Cactus"):
        recommender.recommend(["Purple Cactus"])
    plain = recommender.recommend([titles[0], "Purple Cactus"], allow_new=True, k=3)
    assert plain.matched[1].item == -1
    # An untrained item is its title: passing a known title's words as new gives the item's own scores.
    vector = recommender._input_vector(titles[7])
    np.testing.assert_allclose(recommender.engine.scores([[0, vector]]), recommender.scores([[0, 7]]), atol=3e-2)
    answer = recommender.recommend([titles[0]], candidates=["Purple Cactus", titles[2]], allow_new=True)
    assert {i.title for i in answer.items} == {"Purple Cactus", titles[2]}
    known = recommender._candidate_scores(recommender.scores([[0]])[0], [0], [titles[2]])
    assert known[0] == pytest.approx(float(recommender.scores([[0]])[0][2]), abs=3e-2)


@pytest.mark.parametrize("title", ["<|im_start|>", "<|delrec_0|> x", "<|endoftext|>"])
def test_special_tokens_in_a_title_stay_text(recommender, title):
    ids = recommender._tokenizer.encode(" " + title, add_special_tokens=False).ids
    assert len(ids) > 2
    assert min(ids) > 2
    assert recommender.recommend([title], allow_new=True, k=2).items


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": []}, "empty"),
        ({"history": ["Red River"], "k": 0}, "k is 0"),
        ({"history": [" "]}, "empty"),
        ({"history": ["id:nope"]}, "no item has the id"),
    ],
)
def test_bad_requests_are_refused(recommender, arguments, message):
    with pytest.raises(UsageError, match=message):
        recommender.recommend(**arguments)


def test_threads_get_their_own_answers(recommender):
    histories = [[n, n + 1] for n in range(8)]
    expected = recommender.scores(histories)
    got = {}

    def ask(n):
        for _ in range(5):
            got[n] = recommender.scores([histories[n]])[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(8):
        np.testing.assert_allclose(got[n], expected[n], atol=2e-2)


def spoil(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", ["model-f16.gguf", "catalog.json", "prompt.json", "tokenizer.json"])
def test_a_changed_file_is_refused_by_name(tiny_bundle, name):
    spoil(tiny_bundle, name, lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    with pytest.raises(BundleError, match=name):
        Recommender.load(tiny_bundle)


@pytest.mark.parametrize("name", ["model-f16.gguf", "manifest.json", "catalog.json"])
def test_a_missing_or_cut_file_is_refused(tiny_bundle, name):
    spoil(tiny_bundle, name, lambda b: b[: len(b) // 2])
    with pytest.raises(BundleError, match=name):
        Bundle.open(tiny_bundle, verify=False)
    (tiny_bundle / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(tiny_bundle)


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_foreign_and_hostile_manifests_are_refused(tiny_bundle, tmp_path):
    for bad in ({"schema": 99}, {"files": {}}, {"files": {"../secret": {"bytes": 1}}}, {"model": {}}):
        folder = tmp_path / "copy"
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_bundle, folder)
        edit_manifest(folder, **bad)
        with pytest.raises(BundleError):
            Bundle.open(folder)
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.open(tmp_path / "nothing")


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in dataset().catalog.titles
    assert done.stderr == "", "llama.cpp speaks"
