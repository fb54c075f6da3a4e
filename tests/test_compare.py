"""`export --compare`: every quantisation on the same users, with its own file, and raw ranks behind the figures."""

import json

import numpy as np
import pytest

from delrec_lite.export.quantise import QUANTS, quantise
from delrec_lite.pipeline.compare import compare_quants


def test_quantisations_are_compared_on_the_same_users(tiny_run, tmp_path):
    run = tiny_run()
    rows = compare_quants(run, ["iq4_nl", "q8_0"], tmp_path / "q.json", repeats=2)
    assert [row.quant for row in rows] == ["bf16", "iq4_nl", "q8_0"]
    assert rows[0].top10_overlap == 1.0
    assert rows[1].bytes < rows[2].bytes < rows[0].bytes
    report = json.loads((tmp_path / "q.json").read_text())
    for row in rows:
        ranks = np.array(report["ranks"][row.quant]["m15"])
        assert row.metrics["m15"]["HR@1"] == pytest.approx((ranks == 1).mean(), abs=1e-4)
        assert len(report["samples_ms"][row.quant]) == 2
    assert not (run.folder / "compare").exists()


def test_the_importance_matrix_moves_the_rounding_and_finer_layers_are_finer(tiny_bundle, tmp_path):
    import gguf

    source = tiny_bundle / "model-f16.gguf"
    name = "blk.1.ffn_gate.weight"
    importance = {name: np.where(np.arange(64) < 8, 100.0, 0.01).astype(np.float32)}
    errors = []
    for given in (None, importance):
        quantise(source, tmp_path / "x.gguf", "iq4_nl", 1, given)
        exact, rounded = (
            gguf.quants.dequantize(t.data, t.tensor_type)
            for file in (source, tmp_path / "x.gguf")
            for t in gguf.GGUFReader(file).tensors
            if t.name == name
        )
        errors.append(np.abs(exact - rounded)[:, :8].mean())
    assert errors[1] < 0.9 * errors[0]
    quantise(source, tmp_path / "m.gguf", "iq4_mix", 1)
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == types["blk.1.attn_v.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.1.ffn_up.weight"] == "IQ4_NL"


@pytest.mark.parametrize("quant", QUANTS)
def test_every_quantisation_says_what_each_tensor_became(tiny_bundle, tmp_path, quant):
    types = quantise(tiny_bundle / "model-f16.gguf", tmp_path / "x.gguf", quant, 1)
    assert sum(types.values()) == 21
