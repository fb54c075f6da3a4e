"""A pruned vocabulary has fewer tokens, encodes known texts the same, encodes every new title, and answers the same."""

import json

import numpy as np
import pytest

from delrec_lite.errors import DelrecError
from delrec_lite.export import prune as pruning
from delrec_lite.export.prune import prune
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.families import scramble
from tests.tiny import UNSEEN_TEXTS, dataset, make_model, write_base


@pytest.fixture(autouse=True)
def nothing_common(monkeypatch):
    monkeypatch.setattr(pruning, "COMMON", 0)


@pytest.fixture
def pruned_tokenizer(tiny_base, tmp_path):
    """The tiny tokenizer pruned to the words of four titles."""
    titles = [f" {t}" for t in dataset().catalog.titles[:4]]
    pruned = prune(tiny_base / "tokenizer.json", titles, [], make_model(tiny_base)[0].vocabulary.text)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(pruned.tokenizer))
    return pruned, open_tokenizer(tiny_base / "tokenizer.json"), open_tokenizer(path), titles


def test_known_texts_encode_to_the_same_tokens(pruned_tokenizer):
    pruned, before, after, titles = pruned_tokenizer
    assert len(pruned.kept) < pruned.before
    for title in titles:
        assert after.encode(title).tokens == before.encode(title).tokens
        assert after.encode(title).ids == pruned.ids(before.encode(title).ids)


def test_any_text_still_encodes_and_decodes_to_itself(pruned_tokenizer):
    _, _, after, _ = pruned_tokenizer
    for text in UNSEEN_TEXTS:
        assert after.decode(after.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_special_and_extended_ids_move_with_the_vocabulary(pruned_tokenizer):
    pruned, before, after, _ = pruned_tokenizer
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert after.token_to_id(name) == pruned.ids([before.token_to_id(name)])[0]
    assert pruned.ids([pruned.before, pruned.before + 7]) == [len(pruned.kept), len(pruned.kept) + 7]


def test_other_tokenizers_are_refused(tiny_base, tmp_path):
    content = json.loads((tiny_base / "tokenizer.json").read_text())
    content["model"]["type"] = "Unigram"
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(DelrecError, match="Unigram"):
        prune(tmp_path / "t.json", [], [], 10)


def test_a_pruned_bundle_answers_as_the_full_one(tmp_path):
    base_folder = write_base(tmp_path / "base", [" watermelon elephants umbrella"] * 50)
    paths = []
    for name, pruned in (("full", False), ("pruned", True)):
        model, prompts, base = make_model(base_folder)
        scramble(model)
        target = tmp_path / f"{name}.delrec"
        paths.append(export_tiny(base_folder, target, "f16", (model, prompts, base), prune_vocab=pruned).path)
    assert (paths[1] / "model-f16.gguf").stat().st_size < (paths[0] / "model-f16.gguf").stat().st_size
    facts = json.loads((paths[1] / "manifest.json").read_text())["model"]["text_tokens"]
    assert 256 < facts["kept"] < facts["of"]
    histories = dataset().test().histories
    with Recommender.load(paths[0], threads=1) as full, Recommender.load(paths[1], threads=1) as pruned:
        a, b = full.scores(histories), pruned.scores(histories)
        np.testing.assert_allclose(a, b, atol=1e-3)
        assert (np.argsort(-a)[:, :10] == np.argsort(-b)[:, :10]).all()
        titles = list(dataset().catalog.titles[:3])
        request = {"history": titles, "candidates": [*titles, "Red River (1999)"], "allow_new": True}
        rankings = [
            [(i.title, round(i.score, 2)) for i in recommender.recommend(**request).items]
            for recommender in (full, pruned)
        ]
        assert rankings[0] == rankings[1]  # the new title has only known words
        assert pruned.recommend(["Zebra's café — 東京 ☃"], allow_new=True).items


def test_the_tokenizer_of_the_gguf_file_encodes_as_the_bundle_does(tiny_base, tmp_path):
    import llama_cpp

    bundle = export_tiny(tiny_base, tmp_path / "x.delrec", "f16", prune_vocab=True)
    tokenizer = open_tokenizer(bundle.path / "tokenizer.json")
    llama = llama_cpp.Llama(str(bundle.path / "model-f16.gguf"), vocab_only=True, verbose=False)
    for text in ["The Red Garden", "was watched", "café ☃"]:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == expected


@pytest.mark.real
def test_the_real_vocabulary_becomes_much_smaller_and_titles_encode_the_same():
    from delrec_lite.cache_folder import cache_folder
    from delrec_lite.console import QUIET
    from delrec_lite.hub.pull import pull
    from delrec_lite.llm.load import unpack

    name = "smollm2-135m-instruct"
    path = unpack(name, pull(name).folder, cache_folder(), QUIET) / "tokenizer.json"
    before = open_tokenizer(path)
    titles = [" The Matrix (1999)", " Amélie (2001)", "A Clockwork Orange (1971)", " What is watched next?"]
    pruned = prune(path, titles, [1], before.get_vocab_size())
    after = type(before).from_str(json.dumps(pruned.tokenizer))
    assert len(pruned.kept) < 500
    for text in titles:
        ids = before.encode(text, add_special_tokens=False).ids
        assert after.encode(text, add_special_tokens=False).ids == pruned.ids(ids)
    for text in UNSEEN_TEXTS:
        assert after.decode(after.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_pruning_is_measured_on_every_test_user(tiny_run):
    from delrec_lite.bench.pruning import measure_pruning

    (row,) = measure_pruning(tiny_run(), ["f16"])
    assert row.users == len(dataset().test())
    assert row.same_top10 == 1.0
    assert row.pruned_bytes <= row.whole_bytes
    assert row.text_tokens["kept"] <= row.text_tokens["of"]
