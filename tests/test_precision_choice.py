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
    ("wanted", "faster", "found"),
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
def test_what_a_recipe_asks_for_is_kept_and_the_rest_is_what_is_faster(wanted, faster, found):
    assert resolve_precision(wanted, faster) == found
    assert found in possible_precisions(wanted)


def test_both_are_measured_in_turn_and_medians_compared():
    asked = []
    samples = {"bf16": iter([9.0, 0.004, 0.5, 0.003, 0.002, 0.006]), "fp32": iter([9.0, 0.01, 0.02, 0.03, 0.04, 0.05])}

    def seconds(name, rows):
        asked.append(name)
        return next(samples[name])

    timing = time_precisions(seconds, now=lambda: 0.0)
    assert asked == ["bf16", "fp32"] * 6
    assert timing == Timing(4.0, 30.0)


def test_a_slow_machine_is_measured_no_longer_than_the_budget():
    clock, calls = [0.0], []

    def seconds(name, rows):
        calls.append((name, rows))
        clock[0] += 0.3
        return 0.3 if name == "bf16" else 0.01

    assert time_precisions(seconds, now=lambda: clock[0]).faster == "fp32"
    assert len(calls) == 4  # once to warm up, once to time_precisions


# What is kept.


@pytest.fixture
def measured(monkeypatch):
    """How often the machine was measured, with the times that it gives."""
    calls = []
    monkeypatch.setattr(precision_choice, "time_precisions", lambda seconds: calls.append(1) or Timing(110.0, 5.0))
    monkeypatch.setattr(machine, "cpu_features", lambda: AVX2)
    return calls


def test_a_machine_is_measured_once(measured, tmp_path):
    cache = tmp_path / "not" / "there"
    assert [faster_precision("cpu", cache) for _ in range(3)] == ["fp32"] * 3
    assert len(measured) == 1
    assert cached_timing(cache) == Timing(110.0, 5.0)
    assert [p.name for p in cache.iterdir()] == [FILE]


@pytest.mark.parametrize("change", ["features", "limit", "torch"])
def test_another_processor_torch_or_limit_is_measured_apart(measured, tmp_path, monkeypatch, change):
    faster_precision("cpu", tmp_path)
    with monkeypatch.context() as other:
        if change == "features":
            other.setattr(machine, "cpu_features", lambda: (*AVX2, "avx512_bf16"))
        elif change == "limit":
            other.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
        else:
            other.setattr(precision_choice, "version", lambda name: "99")
        faster_precision("cpu", tmp_path)
        assert len(measured) == 2
    faster_precision("cpu", tmp_path)  # the first is still there
    assert len(measured) == 2


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"5", b"{}", b'[5, {"machine": 3}]', b"GOOD", b"TEXT", b"NEGATIVE"],
)
def test_a_spoilt_file_is_measured_again_and_mended(measured, tmp_path, text):
    faster_precision("cpu", tmp_path)
    whole = json.loads((tmp_path / FILE).read_text())
    told = {b"GOOD": 110.0, b"TEXT": "110", b"NEGATIVE": -1}
    if text in told:
        whole[0]["bf16_ms"] = told[text]
        text = json.dumps(whole).encode()
    (tmp_path / FILE).write_bytes(text)
    faster_precision("cpu", tmp_path)
    assert len(measured) == (1 if b"110.0" in text else 2)
    assert cached_timing(tmp_path) == Timing(110.0, 5.0)


def test_without_a_cache_folder_it_goes_on(measured, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert faster_precision("cpu", tmp_path / "file") == "fp32"
    assert faster_precision("cpu", tmp_path / "file") == "fp32"
    assert len(measured) == 2


def test_this_machine_can_be_measured(tmp_path):
    assert faster_precision("cpu", tmp_path) in {"bf16", "fp32"}
    assert cached_timing(tmp_path) is not None


# What doctor says.


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


def test_doctor_says_that_bf16_is_emulated_and_what_is_used(measured, tmp_path):
    def row():
        return next(check for check in examine(tmp_path).checks if check.name == "precision")

    assert "bf16 is emulated" in row().value
    assert "fp32 is used instead" in row().value
    assert row().state == "ok"
    assert not measured  # doctor measures nothing itself
    faster_precision("cpu", tmp_path)
    assert row().value == "bf16 is emulated on this CPU; measured 110.0 ms, fp32 5.0 ms: fp32 is used"
    assert "measures it" in describe((), {}, None)


# Stages and what they were made in.


def precisions(run):
    run.finetune()
    return [run.stages[name].result["precision"] for name in ("distill", "finetune")]


def made_again(run):
    run.finetune()
    return [name for name in ("distill", "finetune") if run.stages[name].computed]


def test_auto_is_the_default_everywhere():
    assert ModelSection().precision == "auto"
    on_cpu = [name for name in shipped_recipes() if name != "ml-100k-gpu"]
    assert {load_recipe(name).model.precision for name in on_cpu} == {"auto"}


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_makes_what_the_precision_by_name_makes(tiny_run, faster):
    tiny_run.faster = faster
    first = tiny_run()
    assert precisions(first) == [faster, faster]
    keys = [first.stages[name].key for name in ("distill", "finetune")]
    named = tiny_run(runs="named", model={"precision": faster})
    assert precisions(named) == [faster, faster]
    assert [named.stages[name].key for name in ("distill", "finetune")] == keys
    del first
    assert made_again(tiny_run(model={"precision": faster})) == []


def test_a_finished_stage_stays_where_another_precision_is_faster_now(tiny_run):
    tiny_run.faster = "bf16"
    first = tiny_run()
    first.distill()
    del first
    tiny_run.faster = "fp32"
    second = tiny_run()
    assert made_again(second) == ["finetune"]
    assert precisions(second) == ["bf16", "fp32"]
    del second
    tiny_run.faster = "bf16"
    third = tiny_run()
    assert made_again(third) == []
    assert precisions(third) == ["bf16", "fp32"]
    del third
    fourth = tiny_run(model={"precision": "fp32"})
    assert made_again(fourth) == ["distill", "finetune"]


def test_a_stage_cut_short_goes_on_in_the_precision_it_began_in(tiny_run, monkeypatch):
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


def test_stages_finished_before_they_named_their_precision_are_kept(tiny_run):
    first = tiny_run(model={"precision": "bf16"})
    first.finetune()
    for name in ("distill", "finetune"):
        done = first.folder / name / DONE
        held = json.loads(done.read_text())
        del held["result"]["precision"]
        done.write_text(json.dumps(held))
    del first
    again = tiny_run()
    assert made_again(again) == []
    assert precisions(again) == ["bf16", "bf16"]


def test_results_name_what_ran(tiny_run):
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


def test_ranks_made_in_another_precision_stay_and_say_so(tiny_run):
    tiny_run.faster = "bf16"
    first = tiny_run()
    assert training_precision(first).precision == "bf16"
    del first
    tiny_run.faster = "fp32"
    assert training_precision(tiny_run()).precision == "bf16"


# Shipped weights.


@pytest.fixture
def packed(tiny_run, tmp_path, monkeypatch):
    """Weights that were trained in bf16, shipped."""
    tiny_run.faster = "bf16"
    pack(tiny_run("first", shipped=False), tmp_path / "weights")
    monkeypatch.setattr(run_module, "reference_for", lambda name: reference.read_reference(tmp_path / "weights"))


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_shipped_weights_are_taken_whatever_is_faster_here(tiny_run, packed, faster):
    tiny_run.faster = faster
    run = tiny_run()
    assert precisions(run) == ["bf16", "bf16"]
    assert all("shipped" in run.stages[name].result for name in reference.STAGES)
    assert run.models.precision == faster
    assert run.models.precisions() == {"recipe": "auto", "distill": "bf16", "finetune": "bf16", "scores": faster}


def test_a_precision_asked_for_by_name_is_trained(tiny_run, packed):
    tiny_run.faster = "fp32"
    assert "shipped" in tiny_run("a", model={"precision": "bf16"}).finetune().result
    run = tiny_run("b", model={"precision": "fp32"})
    assert "shipped" not in run.finetune().result
    assert "shipped" in run.teacher().result


def test_a_stage_trained_behind_shipped_ones_takes_what_is_faster(tiny_run, packed):
    tiny_run.faster = "fp32"
    assert precisions(tiny_run(finetune={"lr": 1e-3})) == ["bf16", "fp32"]


@pytest.mark.parametrize(("wanted", "fits"), [("auto", True), ("bf16", True), ("fp32", False), ("nf4", False)])
def test_the_weights_in_the_package_fit_their_recipe(wanted, fits):
    held = reference.reference_for("ml-100k-cpu")
    recipe = load_recipe("ml-100k-cpu")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"precision": wanted})})
    data = {"fingerprint": held.training_inputs["data"], "candidates": {"valid": held.training_inputs["candidates"]}}
    facts = reference.training_inputs(recipe, data, held.training_inputs["files"], run_module.CODE)
    assert held.fits("finetune", facts) is fits
    assert held.precision("finetune") == "bf16"
