"""What is exported scores as what was trained, and a failed gate leaves nothing."""

import json
import shutil

import numpy as np
import pytest
import torch

from delrec_lite.config import FinetuneSection
from delrec_lite.errors import DelrecError, GateError
from delrec_lite.export.parity import compare
from delrec_lite.export.tokenizer_file import token_names
from delrec_lite.export.write import token_texts
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from delrec_lite.training.adapters import add_adapter
from tests.conftest import export_tiny
from tests.tiny import SPECIALS, dataset, make_model


def scramble(model):
    """Make every part of the model matter: adapter, soft prompt and offsets away from their first values."""
    add_adapter(model, FinetuneSection(rank=4, alpha=8), steps=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        for p in (model.soft, model.offset_in, model.offset_out):
            p.add_(torch.randn_like(p) * 0.3)
        model.log_scale.fill_(0.4)
    return model


def engine_scores(path, histories):
    engine = LlamaEngine(Bundle.open(path), threads=1)
    try:
        return engine.scores(histories)
    finally:
        engine.close()


@pytest.mark.parametrize(("quant", "least"), [("f16", 0.99999), ("q8_0", 0.999), ("iq4_nl", 0.9)])
def test_exported_scores_are_the_trained_ones(tiny_base, tmp_path, quant, least):
    model, prompts, base = make_model(tiny_base)
    scramble(model)
    histories = dataset().test().histories
    trained = score_all(model, prompts, histories, 10)
    made = export_tiny(tiny_base, tmp_path / "x.delrec", quant, (model, prompts, base))
    parity = compare(trained, engine_scores(made.path, [h.tolist() for h in histories]))
    assert parity.score_correlation > least
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
        made = export_tiny(tiny_base, tmp_path / f"{change}.delrec", "f16", (model, prompts, base))
        scores.append(engine_scores(made.path, histories)[0])
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
    import ctypes

    model, prompts, base = make_model(tiny_base)
    scramble(model)
    made = export_tiny(tiny_base, tmp_path / "x.delrec", "q8_0", (model, prompts, base))
    engine = LlamaEngine(Bundle.open(made.path), threads=1)
    for _ in engine._batches([h.tolist() for h in dataset().test().histories[:8]]):
        for output in engine._outputs:
            pointer = engine._c.llama_get_logits_ith(engine._context, output)
            logits = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (engine._vocabulary,))
            base_id = prompts.vocabulary.item_base
            assert logits[:base_id].max() < logits[base_id:].min()
    engine.close()


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


def test_the_manifest_tells_types_and_parity(tiny_base, tmp_path):
    made = export_tiny(tiny_base, tmp_path / "x.delrec", "q8_0")
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["gated"] is True
    assert set(manifest["model"]["tensor_types"]) == {"F32", "Q8_0"}
    assert manifest["provenance"]["parity"]["users"] == made.parity.users > 0


def test_compare_sees_a_difference():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(8, 40)).astype(np.float32)
    assert compare(a, a).score_correlation == pytest.approx(1)
    assert compare(a, a + 5).top10_overlap == 1.0
    worse = compare(a, a[:, ::-1])
    assert worse.score_correlation < 0.5
    assert worse.top10_overlap < 0.6


def test_item_tokens_are_distinct_and_imitate_no_control_token():
    texts = token_texts(("Alien (1979)", "Alien (1979)", "<|im_start|>", ""), ("1", "2", "3", "4"))
    assert len(set(texts)) == 4
    assert not any("<|" in text for text in texts)
    assert all(texts)
    assert token_texts(("unknown",), ("267",), {"unknown"}) == ["unknown [267]"]


def test_a_title_that_is_a_word_of_the_base_model_is_exported(tiny_base, tmp_path, monkeypatch):
    from delrec_lite.export import write

    word = max(token_names(tiny_base / "tokenizer.json") - set(SPECIALS), key=len)
    monkeypatch.setattr(write, "token_texts", lambda t, *rest: token_texts((word, *t[1:]), *rest))
    made = export_tiny(tiny_base, tmp_path / "x.delrec")
    assert engine_scores(made.path, [[1, 2]]).shape == (1, len(dataset().catalog))


def test_what_a_killed_export_left_is_cleared_away(tiny_base, tmp_path):
    (tmp_path / ".x.delrec.1.part.trial").mkdir()
    export_tiny(tiny_base, tmp_path / "x.delrec")
    assert [p.name for p in tmp_path.iterdir()] == ["x.delrec"]


def test_a_tokenizer_that_no_bundle_holds_is_refused_at_once(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    made = make_model(folder)
    held = json.loads((folder / "tokenizer.json").read_text())
    held["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(DelrecError, match="Unigram"):
        export_tiny(folder, tmp_path / "x.delrec", model=made)
    assert {path.name for path in tmp_path.iterdir()} == {"base"}
