"""The figures of a machine: training steps, the demo's parts, and the latency of every quantisation."""

import json

import pytest

from delrec_lite.bench.machines import measure, seconds_per_step
from delrec_lite.errors import DelrecError


def test_training_steps_are_timed_in_the_precision_asked_for(tiny_run, tmp_path):
    report = seconds_per_step(tiny_run.recipe(), tmp_path / "runs", "fp32", 2, str(tmp_path / "out"))
    assert report["precision"] == "fp32"
    assert len(report["seconds"]) == 2
    assert report["tokens_per_second"] > 0


def test_every_quantisation_of_a_bundle_is_timed_in_each_setting(tiny_run, tmp_path, monkeypatch):
    run = tiny_run(export={"quant": "f16", "format": "both", "onnx_quant": "fp32"})
    run.export()
    monkeypatch.setattr("delrec_lite.bench.machines._training", lambda recipe, runs, p, steps, env: {"asked": p})
    report = measure("r", tmp_path, run.bundle, ["this machine", "avx2"], None, 1, demo=False)
    for name, figures in report["settings"].items():
        rows = figures["latency"]
        assert {(row["bundle"], row["workload"]) for row in rows} == {
            (f"r {quant}", workload) for quant in ("f16", "fp32") for workload in ("cold", "step")
        }, name
        assert [row["asked"] for row in figures["training"]] == ["auto", "bf16", "fp32"]
    assert report["settings"]["avx2"]["environment"]["ATEN_CPU_CAPABILITY"] == "avx2"
    json.dumps(report)


def test_a_command_that_fails_is_one_line(tmp_path):
    with pytest.raises(DelrecError, match="failed: "):
        measure("no-such-recipe", tmp_path, None, ["this machine"], None, 1, demo=False)
