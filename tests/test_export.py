"""An exported model scores as the trained one, and a failed gate leaves no bundle."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Regex, pre_tokenizers, trainers

from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.errors import DelrecError, GateError
from delrec_lite.export.bundle_files import golden
from delrec_lite.export.parity import compare_scores
from delrec_lite.export.texts import token_texts
from delrec_lite.export.tokenizer_file import token_names
from delrec_lite.llm.forward import score_all
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from delrec_lite.runtime.recommender import Recommender
from tests import conftest
from tests.conftest import export_tiny
from tests.families import scramble
from tests.tiny import SPECIALS, dataset, make_model


def engine_scores(path, histories):
    engine = LlamaEngine(Bundle.open(path), threads=1)
    try:
        return engine.scores(histories)
    finally:
        engine.close()


@pytest.mark.parametrize(("quant", "min_correlation"), [("f16", 0.99999), ("q8_0", 0.999), ("iq4_nl", 0.9)])
def test_exported_scores_are_the_trained_ones(tiny_base, tmp_path, quant, min_correlation):
    model, prompts, base = make_model(tiny_base)
    scramble(model)
    histories = dataset().test().histories
    trained = score_all(model, prompts, histories, 10)
    exported = export_tiny(tiny_base, tmp_path / "x.delrec", quant, (model, prompts, base))
    parity = compare_scores(trained, engine_scores(exported.path, [h.tolist() for h in histories]))
    assert parity.score_correlation > min_correlation
    if quant == "f16":
        assert parity.top10_overlap > 0.99
        assert parity.top1_same == 1.0


def test_scale_and_soft_prompt_are_in_the_bundle(tiny_base, tmp_path):
    """Two models that differ in the soft prompt alone, or in the scale alone, are exported differently."""
    histories = [dataset().sequences[0][:5].tolist()]
    scores = []
    for change in ("none", "soft", "scale"):
        model, prompts, base = make_model(tiny_base)
        with torch.no_grad():
            if change == "soft":
                model.soft.mul_(-1)
            if change == "scale":
                model.log_scale.fill_(0.7)
        exported = export_tiny(tiny_base, tmp_path / f"{change}.delrec", "f16", (model, prompts, base))
        scores.append(engine_scores(exported.path, histories)[0])
    assert not np.allclose(scores[0], scores[1], rtol=1e-2)
    np.testing.assert_allclose(scores[2], scores[0] * np.exp(0.7), rtol=2e-2, atol=2e-2)


def test_served_prompt_is_the_trained_prompt(tiny_base, tiny_bundle):
    _, prompts, _ = make_model(tiny_base)
    served = Bundle.open(tiny_bundle).prompt
    assert served.prefix == list(prompts.next_prefix)
    assert [served.item_token_base + i for i in (0, 7)] == prompts.items([0, 7])
    soft = [i for i in served.prefix if i in prompts.vocabulary.soft_ids]
    assert soft == list(prompts.vocabulary.soft_ids)


def test_text_and_soft_tokens_never_outrank_an_item(tiny_base, tmp_path):
    """In any runtime that reads the plain logits."""
    import llama_cpp

    model, prompts, base = make_model(tiny_base)
    scramble(model)
    exported = export_tiny(tiny_base, tmp_path / "x.delrec", "q8_0", (model, prompts, base))
    bundle, base_id = Bundle.open(exported.path), prompts.vocabulary.item_base
    llama = llama_cpp.Llama(str(bundle.model_path), logits_all=True, verbose=False)
    for history in dataset().test().histories[:8]:
        llama.reset()
        llama.eval([*bundle.prompt.prefix, *(base_id + int(item) for item in history[-10:])])
        logits = llama.scores[llama.n_tokens - 1]
        assert logits[:base_id].max() < logits[base_id:].min()
    llama.close()


def test_a_failed_gate_leaves_no_bundle_and_keeps_the_old_one(tiny_base, tmp_path):
    target = tmp_path / "x.delrec"
    with pytest.raises(GateError, match="correlate"):
        export_tiny(tiny_base, target, "iq4_nl", score_correlation=1.0)
    assert list(tmp_path.iterdir()) == []
    export_tiny(tiny_base, target, "f16")
    before = (target / "manifest.json").read_text()
    with pytest.raises(GateError):
        export_tiny(tiny_base, target, "iq4_nl", score_correlation=1.0)
    assert (target / "manifest.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.delrec"]


def test_the_manifest_records_types_and_parity(tiny_base, tmp_path):
    exported = export_tiny(tiny_base, tmp_path / "x.delrec", "q8_0")
    manifest = json.loads((exported.path / "manifest.json").read_text())
    assert manifest["gated"] is True
    assert set(manifest["model"]["tensor_types"]) == {"F32", "Q8_0"}
    assert manifest["provenance"]["parity"]["users"] == exported.parity.users > 0


@pytest.mark.parametrize(("users", "stored"), [(24, 24), (64, 64), (65, 64), (130, 64), (943, 64)])
def test_a_bundle_stores_as_many_requests_as_the_docs_say(users, stored):
    sequences = tuple(np.array([n % 30, (n + 1) % 30, (n + 2) % 30, n % 7]) for n in range(users))
    data = Dataset("many", dataset().catalog, tuple(map(str, range(users))), sequences, "x", repeats=True)
    sets = CandidateSets("test", np.stack([data.test().targets] * 2, 1), 0)
    requests = golden(data, sets, 2)
    assert len(requests.histories) == len(requests.targets) == len(requests.candidates) == stored
    assert [len(history) for history in requests.histories] == [2] * stored
    assert requests.histories[-1][0] == sequences[users * (stored - 1) // stored][1]
    assert "64 histories" in (Path(__file__).parents[1] / "docs" / "errors.md").read_text()


def test_compare_finds_a_difference():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(8, 40)).astype(np.float32)
    assert compare_scores(a, a).score_correlation == pytest.approx(1)
    assert compare_scores(a, a + 5).top10_overlap == 1.0
    worse = compare_scores(a, a[:, ::-1])
    assert worse.score_correlation < 0.5
    assert worse.top10_overlap < 0.6


def test_item_tokens_are_distinct_and_imitate_no_control_token():
    texts = token_texts(("Alien (1979)", "Alien (1979)", "<|im_start|>", ""), ("1", "2", "3", "4"))
    assert len(set(texts)) == 4
    assert not any("<|" in text for text in texts)
    assert all(texts)
    assert token_texts(("unknown",), ("267",), {"unknown"}) == ["unknown [267]"]


def test_a_title_that_is_a_word_of_the_base_model_is_exported(tiny_base, tmp_path, monkeypatch):
    from delrec_lite.export import texts

    word = max(token_names(tiny_base / "tokenizer.json") - set(SPECIALS), key=len)
    monkeypatch.setattr(texts, "token_texts", lambda t, *rest: token_texts((word, *t[1:]), *rest))
    exported = export_tiny(tiny_base, tmp_path / "x.delrec")
    assert engine_scores(exported.path, [[1, 2]]).shape == (1, len(dataset().catalog))


def test_leftovers_of_a_killed_export_are_removed(tiny_base, tmp_path):
    (tmp_path / ".x.delrec.1.part.trial").mkdir()
    export_tiny(tiny_base, tmp_path / "x.delrec")
    assert [p.name for p in tmp_path.iterdir()] == ["x.delrec"]


def test_an_unsupported_tokenizer_is_refused_before_export(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    model_parts = make_model(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DelrecError, match="Unigram"):
        export_tiny(folder, tmp_path / "x.delrec", model=model_parts)
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


# What Llama 3 splits texts by before byte-pair encoding: a sign stays with the word behind it.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"  # words and numbers
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_a_text_is_split_as_by_llama_3(tiny_base, tmp_path):
    import llama_cpp

    folder = shutil.copytree(tiny_base, tmp_path / "base")
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    texts = ["Golden-Harbour", "Silent/River", "(hidden)", "in 19501954?!", "it's  THE'LL  1950\n\n mountains"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts * 9, trainer)
    tokenizer_json = json.loads(tokenizer.to_str())
    tokenizer_json["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json))
    exported = export_tiny(folder, tmp_path / "x.delrec")
    model = llama_cpp.Llama(str(exported.path / "model-f16.gguf"), vocab_only=True, verbose=False)
    saved_tokenizer = open_tokenizer(folder / "tokenizer.json")
    for text in [*texts, "Silent-Harbour (Golden) in 1954/1950"]:
        expected = saved_tokenizer.encode(text, add_special_tokens=False).ids
        assert model.tokenize(text.encode(), add_bos=False) == expected


def test_a_bundle_says_whether_repeats_count_in_its_data_set(shared_tiny_bundle, tiny_base, tmp_path, monkeypatch):
    with Recommender.load(shared_tiny_bundle, threads=1) as without:
        assert not without.bundle.repeats
    monkeypatch.setattr(conftest, "dataset", lambda: replace(dataset(), repeats=True))
    exported = conftest.export_tiny(tiny_base, tmp_path / "repeating.delrec").path
    titles = dataset().catalog.titles
    with Recommender.load(exported, threads=1) as recommender:
        assert recommender.bundle.repeats
        assert set(titles[:2]) <= {item.title for item in recommender.recommend(titles[:2], k=99).items}
