"""`export --compare`: every quantisation on the same users, with its own file, and raw ranks in the report."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from delrec_lite.bench.quantisations import choose_quant, compare_quants, fastest_within
from delrec_lite.doctor import examine
from delrec_lite.evaluation.setting import Setting
from delrec_lite.export.pareto import quant_picture, quant_section
from delrec_lite.export.quantisation_choice import store_choice
from delrec_lite.export.quantise import quantise
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.quantisations import GGUF
from delrec_lite.runtime.bundle import Bundle
from tests.conftest import export_tiny
from tests.pictures import marks, quant_row
from tests.tiny import write_base


def test_quantisations_are_compared_on_the_same_users(tiny_run, tmp_path):
    run = tiny_run()
    rows = compare_quants(run, ["iq4_nl", "q8_0"], tmp_path / "q.json", repeats=2)
    assert [row.quant for row in rows] == ["bf16", "iq4_nl", "q8_0"]
    assert rows[0].top10_overlap == 1.0
    assert rows[1].bytes < rows[2].bytes < rows[0].bytes
    report = json.loads((tmp_path / "q.json").read_text())
    for row in rows:
        ranks = np.array(report["ranks"][row.quant]["sampled"])
        assert row.metrics["sampled"]["HR@1"] == pytest.approx((ranks == 1).mean(), abs=1e-4)
        assert len(report["samples_ms"][row.quant]) == 2
    assert not (run.folder / "compare").exists()


def test_auto_takes_the_fastest_within_the_budget():
    rows = [
        quant_row("bf16", 9.0, 0.0),
        quant_row("q4_0", 3.0, 0.02),
        quant_row("iq4_nl", 4.0, 0.004),
        quant_row("q8_0", 5.0, 0.0),
    ]
    names = ["q4_0", "iq4_nl", "q8_0"]
    assert fastest_within(rows, names, 0.005) == "iq4_nl"
    assert fastest_within(rows, names, 0.05) == "q4_0"
    assert fastest_within(rows, names, 0.0) == "q8_0"
    assert fastest_within(rows, ["q4_0"], 0.0) == "q4_0"


def test_the_readme_shows_the_compared_quantisations():
    rows = [quant_row("bf16", 9.0, 0.0), quant_row("q4_0", 3.0, 0.02)]
    text = quant_section(rows, "q4_0", Setting(8, by_time=True))
    assert "| **q4_0** | 3.0 | 3.0 | 0.480 | 0.700 | -2.0 | 90.0% |" in text
    assert "| HR@1 of 8 | NDCG@10 of 8 |" in text
    assert "on validation interactions" in text
    picture = ElementTree.fromstring(quant_picture(rows, "q4_0", Setting(8)))
    dots = {quant: dot for quant, (dot,) in marks(picture, "dot").items()}
    assert {quant: dot.get("style").partition(";")[0] for quant, dot in dots.items()} == {
        "bf16": "fill: #4a7fb5",
        "q4_0": "fill: #d9822b",
    }
    assert float(dots["q4_0"].get("x")) < float(dots["bf16"].get("x"))
    assert float(dots["q4_0"].get("y")) > float(dots["bf16"].get("y"))


def test_auto_exports_its_choice_with_the_comparison(tiny_run, tmp_path):
    run = tiny_run()
    quant, rows = choose_quant(run, ["q8_0", "iq4_nl"], 1.0, repeats=2)
    assert quant in {"q8_0", "iq4_nl"}
    assert [r.quant for r in rows] == ["bf16", "q8_0", "iq4_nl"]
    written = write_bundle(run, tmp_path / "x.delrec", [quant], gated=False, measured_quants=rows)
    readme = (written.path / "README.md").read_text()
    assert f"**{quant}**" in readme
    assert "quantisations.svg" in Bundle.open(written.path).manifest["files"]
    assert Bundle.open(written.path).manifest["gated"] is False


def test_doctor_shows_what_auto_chose_on_this_machine_last(tmp_path, monkeypatch):
    def line():
        return next(check.value for check in examine(tmp_path).checks if check.name == "quantisation")

    assert line().startswith("not measured on this machine")
    store_choice("iq4_nl", {"q8_0": 55.2, "iq4_nl": 34.8}, 0.005, "films", tmp_path)
    assert line() == "iq4_nl at most 0.5 points below bf16, films: iq4_nl 35 ms, q8_0 55 ms"
    store_choice("int8", {"int8": 19.0}, 0.01, "films", tmp_path)
    store_choice("q8_0", {"q8_0": 54.0, "iq4_nl": 36.0}, 0.0, "films", tmp_path)
    entries = json.loads((tmp_path / "quantisations.json").read_text())
    assert [entry["quant"] for entry in entries] == ["int8", "q8_0"], "the same quantisations again replace the first"
    monkeypatch.setattr("delrec_lite.export.quantisation_choice.machine", lambda: {"cpu": "another"})
    assert line().startswith("not measured on this machine")
    for broken in ("{", "[1]", '[{"machine": {"cpu": "another"}, "created": 1, "ms": 3}]', '{"quant": 1}'):
        (tmp_path / "quantisations.json").write_text(broken)
        assert line().startswith("not measured on this machine")


def test_onnx_is_compared_with_gguf(tiny_run, tmp_path):
    rows = compare_quants(tiny_run(), ["int8"], tmp_path / "q.json", repeats=2)
    assert [(r.format, r.quant) for r in rows] == [("gguf", "bf16"), ("onnx", "int8")]


def test_the_importance_matrix_reduces_the_error_of_important_columns(tiny_bundle, tmp_path):
    import gguf

    source = tiny_bundle / "model-f16.gguf"
    name = "blk.1.ffn_gate.weight"
    importance = {name: np.where(np.arange(64) < 8, 100.0, 0.01).astype(np.float32)}
    errors = []
    for matrix in (None, importance):
        quantise(source, tmp_path / "x.gguf", "iq4_nl", 1, matrix)
        exact, rounded = (
            gguf.quants.dequantize(t.data, t.tensor_type)
            for file in (source, tmp_path / "x.gguf")
            for t in gguf.GGUFReader(file).tensors
            if t.name == name
        )
        errors.append(np.abs(exact - rounded)[:, :8].mean())
    assert errors[1] < 0.9 * errors[0]


def test_the_first_and_the_last_layer_have_more_bits_than_the_others(tmp_path):
    import gguf

    source = export_tiny(write_base(tmp_path / "base", layers=3), tmp_path / "x.delrec").path / "model-f16.gguf"
    quantise(source, tmp_path / "m.gguf", "iq4_mix", 1)
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == types["blk.2.ffn_up.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.1.ffn_up.weight"] == types["blk.1.attn_q.weight"] == "IQ4_NL"
    assert types["blk.1.attn_v.weight"] == "Q8_0"


@pytest.mark.parametrize("quant", GGUF.names())
def test_every_quantisation_returns_the_type_of_each_tensor(tiny_bundle, tmp_path, quant):
    types = quantise(tiny_bundle / "model-f16.gguf", tmp_path / "x.gguf", quant, 1)
    assert sum(types.counts.values()) == len(types.tensors) == 21
