"""``model.precision: auto``: chosen by measured times, kept in the cache, and named by every result."""

import json

import pytest
import yaml

from delrec_lite import machine
from delrec_lite.config import ModelSection, load_recipe, shipped_recipes
from delrec_lite.doctor import examine
from delrec_lite.llm import precision_choice
from delrec_lite.llm.precision_choice import (
    FILE,
    Timing,
    bf16_is_native,
    cached_timing,
    describe,
    faster_precision,
    possible_precisions,
    resolve_precision,
    time_precisions,
)
from delrec_lite.pipeline import reference
from delrec_lite.pipeline import run as run_module
from delrec_lite.pipeline.pack import pack
from delrec_lite.pipeline.rows import TRAINED, training_precision
from delrec_lite.pipeline.stage import DONE
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.bundle import Bundle

AVX2 = ("avx2", "f16c", "fma")


# Which is faster.


@pytest.mark.parametrize(
    ("bf16", "fp32", "faster"),
    [(2.7, 5.3, "bf16"), (110.0, 5.5, "fp32"), (5.0, 5.0, "fp32"), (5.0, 5.7, "fp32"), (5.0, 5.76, "bf16")],
)
def test_bf16_must_be_clearly_faster(bf16, fp32, faster):
    assert Timing(bf16, fp32).faster == faster


@pytest.mark.parametrize(
    ("requested", "faster", "resolved"),
    [
        ("auto", "bf16", "bf16"),
        ("auto", "fp32", "fp32"),
        ("bf16", "fp32", "bf16"),
        ("fp32", "bf16", "fp32"),
        ("nf4", "bf16", "nf4"),
        ("nf4", "fp32", "nf4/fp32"),
        ("int8", "fp32", "int8/fp32"),
    ],
)
def test_a_requested_precision_is_used_and_auto_takes_the_faster(requested, faster, resolved):
    assert resolve_precision(requested, faster) == resolved
    assert resolved in possible_precisions(requested)


def test_both_are_measured_in_turn_and_medians_compared():
    order = []
    samples = {"bf16": iter([9.0, 0.004, 0.5, 0.003, 0.002, 0.006]), "fp32": iter([9.0, 0.01, 0.02, 0.03, 0.04, 0.05])}

    def seconds(name, rows):
        order.append(name)
        return next(samples[name])

    timing = time_precisions(seconds, now=lambda: 0.0)
    assert order == ["bf16", "fp32"] * 6
    assert timing == Timing(4.0, 30.0)


def test_a_slow_machine_is_measured_no_longer_than_the_budget():
    clock, calls = [0.0], []

    def seconds(name, rows):
        calls.append((name, rows))
        clock[0] += 0.3
        return 0.3 if name == "bf16" else 0.01

    assert time_precisions(seconds, now=lambda: clock[0]).faster == "fp32"
    assert len(calls) == 4  # one warm-up and one sample of each


# The measurement in the cache.


@pytest.fixture
def measurements(monkeypatch):
    """One entry for each measurement of the machine, which gives fixed times."""
    calls = []
    monkeypatch.setattr(precision_choice, "time_precisions", lambda seconds: calls.append(1) or Timing(110.0, 5.0))
    monkeypatch.setattr(machine, "cpu_features", lambda: AVX2)
    return calls


def test_a_machine_is_measured_once(measurements, tmp_path):
    cache = tmp_path / "new" / "folder"
    assert [faster_precision("cpu", cache) for _ in range(3)] == ["fp32"] * 3
    assert len(measurements) == 1
    assert cached_timing(cache) == Timing(110.0, 5.0)
    assert [p.name for p in cache.iterdir()] == [FILE]


@pytest.mark.parametrize("change", ["features", "limit", "torch"])
def test_another_processor_torch_or_limit_is_measured_separately(measurements, tmp_path, monkeypatch, change):
    faster_precision("cpu", tmp_path)
    with monkeypatch.context() as patch:
        if change == "features":
            patch.setattr(machine, "cpu_features", lambda: (*AVX2, "avx512_bf16"))
        elif change == "limit":
            patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
        else:
            patch.setattr(precision_choice, "version", lambda name: "99")
        faster_precision("cpu", tmp_path)
        assert len(measurements) == 2
    faster_precision("cpu", tmp_path)  # the first measurement is still cached
    assert len(measurements) == 2


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"5", b"{}", b'[5, {"machine": 3}]', b"GOOD", b"TEXT", b"NEGATIVE"],
)
def test_a_malformed_cache_file_is_measured_again_and_replaced(measurements, tmp_path, text):
    faster_precision("cpu", tmp_path)
    entries = json.loads((tmp_path / FILE).read_text())
    replacements = {b"GOOD": 110.0, b"TEXT": "110", b"NEGATIVE": -1}
    if text in replacements:
        entries[0]["bf16_ms"] = replacements[text]
        text = json.dumps(entries).encode()
    (tmp_path / FILE).write_bytes(text)
    faster_precision("cpu", tmp_path)
    assert len(measurements) == (1 if b"110.0" in text else 2)
    assert cached_timing(tmp_path) == Timing(110.0, 5.0)


def test_without_a_cache_folder_each_call_measures(measurements, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert faster_precision("cpu", tmp_path / "file") == "fp32"
    assert faster_precision("cpu", tmp_path / "file") == "fp32"
    assert len(measurements) == 2


def test_this_machine_can_be_measured(tmp_path):
    assert faster_precision("cpu", tmp_path) in {"bf16", "fp32"}
    assert cached_timing(tmp_path) is not None


# The report of doctor.


@pytest.mark.parametrize(
    ("features", "limits", "native"),
    [
        (AVX2, {}, False),
        ((*AVX2, "avx512f", "avx512_vnni"), {}, False),
        ((*AVX2, "avx512f", "avx512_bf16"), {}, True),
        ((*AVX2, "amx_bf16"), {}, True),
        (("neon", "bf16"), {}, True),
        ((*AVX2, "avx512_bf16"), {"ONEDNN_MAX_CPU_ISA": "avx2"}, False),
        ((), {}, None),
    ],
)
def test_bf16_is_native_where_the_processor_has_it(features, limits, native):
    assert bf16_is_native(features, limits) is native


def test_doctor_says_that_bf16_is_emulated_and_what_is_used(measurements, tmp_path):
    def row():
        return next(check for check in examine(tmp_path).checks if check.name == "precision")

    assert "bf16 is emulated" in row().value
    assert "fp32 is used instead" in row().value
    assert row().state == "ok"
    assert not measurements  # doctor measures nothing itself
    faster_precision("cpu", tmp_path)
    assert row().value == "bf16 is emulated on this CPU; measured 110.0 ms, fp32 5.0 ms: fp32 is used"
    assert "measures it" in describe((), {}, None)


# The precision of each stage.


def precisions(run):
    run.finetune()
    return [run.stages[name].result["precision"] for name in ("distill", "finetune")]


def recomputed(run):
    run.finetune()
    return [name for name in ("distill", "finetune") if run.stages[name].computed]


def test_auto_is_the_default_everywhere():
    assert ModelSection().precision == "auto"
    on_cpu = [name for name in shipped_recipes() if name != "ml-100k-gpu"]
    assert {load_recipe(name).model.precision for name in on_cpu} == {"auto"}


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_gives_the_keys_of_the_precision_that_it_takes(tiny_run, faster):
    tiny_run.faster = faster
    first = tiny_run()
    assert precisions(first) == [faster, faster]
    keys = [first.stages[name].key for name in ("distill", "finetune")]
    named = tiny_run(runs="named", model={"precision": faster})
    assert precisions(named) == [faster, faster]
    assert [named.stages[name].key for name in ("distill", "finetune")] == keys
    del first
    assert recomputed(tiny_run(model={"precision": faster})) == []


def test_a_finished_stage_stays_when_another_precision_is_faster(tiny_run):
    tiny_run.faster = "bf16"
    first = tiny_run()
    first.distill()
    del first
    tiny_run.faster = "fp32"
    second = tiny_run()
    assert recomputed(second) == ["finetune"]
    assert precisions(second) == ["bf16", "fp32"]
    del second
    tiny_run.faster = "bf16"
    third = tiny_run()
    assert recomputed(third) == []
    assert precisions(third) == ["bf16", "fp32"]
    del third
    fourth = tiny_run(model={"precision": "fp32"})
    assert recomputed(fourth) == ["distill", "finetune"]


def test_an_interrupted_stage_continues_in_its_precision(tiny_run, monkeypatch):
    from delrec_lite.training import distill as stage1

    def cut(*arguments):
        raise KeyboardInterrupt

    tiny_run.faster = "bf16"
    with monkeypatch.context() as patched:
        patched.setattr(stage1, "distill", cut)
        with pytest.raises(KeyboardInterrupt):
            tiny_run().distill()
    tiny_run.faster = "fp32"
    assert precisions(tiny_run()) == ["bf16", "fp32"]


def test_finished_stages_without_a_precision_in_their_results_are_kept(tiny_run):
    first = tiny_run(model={"precision": "bf16"})
    first.finetune()
    for name in ("distill", "finetune"):
        path = first.folder / name / DONE
        content = json.loads(path.read_text())
        del content["result"]["precision"]
        path.write_text(json.dumps(content))
    del first
    repeated = tiny_run()
    assert recomputed(repeated) == []
    assert precisions(repeated) == ["bf16", "bf16"]


def test_results_name_the_precision_of_each_stage(tiny_run):
    tiny_run.faster = "bf16"
    tiny_run().distill()
    tiny_run.faster = "fp32"
    run = tiny_run()
    evaluate(run)
    expected = {"recipe": "auto", "distill": "bf16", "finetune": "fp32", "scores": "fp32"}
    assert Bundle.open(run.bundle).manifest["provenance"]["precision"] == expected
    report = json.loads((run.folder / "report.json").read_text())
    assert report["precision"] == expected
    assert {row["model"]: row["precision"] for row in report["rows"]} == {
        row["model"]: "fp32" if row["model"] == TRAINED else "" for row in report["rows"]
    }
    assert report["stages"]["distill"]["precision"] == "bf16"
    assert report["stages"]["export"]["precision"] == "fp32"
    assert f"{TRAINED}: fp32" in (run.folder / "table.md").read_text()
    assert "Stage 1 trained in bf16, stage 2 in fp32" in (run.folder / "table.md").read_text()
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["model"]["precision"] == "auto"


def test_ranks_of_another_precision_stay_and_name_it(tiny_run):
    tiny_run.faster = "bf16"
    first = tiny_run()
    assert training_precision(first).precision == "bf16"
    del first
    tiny_run.faster = "fp32"
    assert training_precision(tiny_run()).precision == "bf16"


# Shipped weights.


@pytest.fixture
def shipped(tiny_run, tmp_path, monkeypatch):
    """Weights that were trained in bf16, shipped."""
    tiny_run.faster = "bf16"
    pack(tiny_run("first", shipped=False), tmp_path / "weights")
    monkeypatch.setattr(run_module, "reference_for", lambda name: reference.read_reference(tmp_path / "weights"))


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_shipped_weights_are_used_in_either_faster_precision(tiny_run, shipped, faster):
    tiny_run.faster = faster
    run = tiny_run()
    assert precisions(run) == ["bf16", "bf16"]
    assert all("shipped" in run.stages[name].result for name in reference.STAGES)
    assert run.models.precision == faster
    assert run.models.precisions() == {"recipe": "auto", "distill": "bf16", "finetune": "bf16", "scores": faster}


def test_another_precision_in_the_recipe_is_trained(tiny_run, shipped):
    tiny_run.faster = "fp32"
    assert "shipped" in tiny_run("a", model={"precision": "bf16"}).finetune().result
    run = tiny_run("b", model={"precision": "fp32"})
    assert "shipped" not in run.finetune().result
    assert "shipped" in run.teacher().result


def test_a_stage_trained_after_shipped_stages_takes_the_faster_precision(tiny_run, shipped):
    tiny_run.faster = "fp32"
    assert precisions(tiny_run(finetune={"lr": 1e-3})) == ["bf16", "fp32"]


@pytest.mark.parametrize(("requested", "fits"), [("auto", True), ("bf16", True), ("fp32", False), ("nf4", False)])
def test_the_weights_in_the_package_fit_their_recipe(requested, fits):
    weights = reference.reference_for("ml-100k-cpu")
    recipe = load_recipe("ml-100k-cpu")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"precision": requested})})
    data = {
        "fingerprint": weights.training_inputs["data"],
        "candidates": {"valid": weights.training_inputs["candidates"]},
    }
    facts = reference.training_inputs(recipe, data, weights.training_inputs["files"], run_module.CODE)
    assert weights.fits("finetune", facts) is fits
    assert weights.precision("finetune") == "bf16"
