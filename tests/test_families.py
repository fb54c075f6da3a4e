"""Other families than Llama as GGUF: what llama.cpp computes is what was trained."""

import numpy as np
import pytest

from delrec_lite.errors import ConfigError
from delrec_lite.export.parity import compare_scores
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from delrec_lite.runtime.gguf.rows import TokenRows
from tests.conftest import export_tiny
from tests.families import moved
from tests.tiny import dataset


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3", "gemma3"])
@pytest.mark.parametrize("prune", [False, True])
def test_exported_scores_are_the_trained_ones(tmp_path, kind, prune):
    model, prompts, base = moved(tmp_path / "base", kind)
    histories = dataset().test().histories
    trained = score_all(model, prompts, histories, 10)
    exported = export_tiny(None, tmp_path / "x.delrec", "f16", (model, prompts, base), prune_vocab=prune)
    bundle = Bundle.open(exported.path)
    engine = LlamaEngine(bundle, threads=1)
    try:
        served = engine.scores([h.tolist() for h in histories])
        parity = compare_scores(trained, served)
        # A vector in a history is read as a row of the vocabulary is.
        row = TokenRows(bundle.model_path).row(bundle.prompt.item_token_base + 4)
        as_vector = engine.scores([[1, 2, row, 3]])[0]
        as_item = engine.scores([[1, 2, 4, 3]])[0]
    finally:
        engine.close()
    assert parity.score_correlation > 0.99999
    assert parity.top10_overlap > 0.98
    assert np.abs(as_vector - as_item).max() < 0.01 * np.ptp(as_item)


@pytest.mark.parametrize("kind", ["qwen2", "phi3", "gemma3"])
def test_mixed_quantisation_knows_the_first_and_the_last_layer(tmp_path, kind):
    exported = export_tiny(
        None, tmp_path / "x.delrec", "iq4_mix", moved(tmp_path / "base", kind), score_correlation=0.5
    )
    assert set(exported.tensor_types) == {"F32", "Q8_0"}  # both layers of the tiny model are first or last


def test_a_model_that_gguf_cannot_express_is_not_exported(tmp_path):
    model, prompts, base = moved(tmp_path / "base", "gemma3")
    model.lm.config.query_pre_attn_scalar = 99
    with pytest.raises(ConfigError, match="attention is scaled by 99"):
        export_tiny(None, tmp_path / "x.delrec", "f16", (model, prompts, base))
    assert not list(tmp_path.glob("*.delrec"))
