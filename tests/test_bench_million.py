"""The bench of a million items: its losses, a step of each way, accuracy by loss, and the tables made of them."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from delrec_lite.bench import million_items
from delrec_lite.bench.losses import gbce
from delrec_lite.console import QUIET
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.data.types import CandidateSets
from delrec_lite.softmax.rows import RATE
from tests.teachers import ITEMS, TINY, circle

JOB = {"items": 300, "tokens": 40, "negatives": 20, "layers": 1, "steps": 2, "threads": 1}


def test_gbce_without_calibration_is_binary_cross_entropy():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([1.0, 0, 0, 0, 0]).repeat(6, 1)
    expected = F.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(gbce(logits, 100, calibration=0.0), expected)
    beta = 4 / 99  # calibrated in full: the share of the catalogue that is drawn
    of_target = F.logsigmoid(logits[:, 0]).mean() / 5
    torch.testing.assert_close(gbce(logits, 100, calibration=1.0), expected + (1 - beta) * of_target)
    logits[0, 2] = float("-inf")  # the target, drawn as a negative
    assert gbce(logits, 100).isfinite()


@pytest.mark.parametrize(("softmax", "trains"), [("sampled", "rows"), ("gbce", "rows"), ("blocks", "adamw")])
def test_a_step_is_measured(softmax, trains):
    job = {**JOB, "softmax": softmax, "trains": trains, "teacher": softmax != "gbce"}
    measured = million_items.measure_step(job)
    assert len(measured["seconds"]) == len(measured["loss"]) == 2
    assert np.isfinite(measured["loss"]).all()
    assert measured["peak_bytes"] > 1e8


def test_the_plan_leaves_out_what_cannot_fit():
    def planned(softmax, trains):
        job = {**JOB, "items": 10**6, "tokens": 800, "softmax": softmax, "trains": trains, "teacher": True}
        return million_items.planned_bytes(job)

    assert planned("sampled", "rows") < 8e9
    assert planned("full", "adamw") > planned("blocks", "adamw") > 30e9


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("circle") / "data", circle()
    data = make_dataset(data.name, data.catalog, data.user_ids, data.sequences)
    sets = {}
    for split in (data.valid(), data.test()):
        others = (split.targets[:, None] + np.arange(5)) % ITEMS
        sets[split.name] = CandidateSets(split.name, others, 3)
    save_dataset(data, sets, Settings(2, 5, 3), folder)
    with pytest.MonkeyPatch.context() as patched:
        small = {name: value for name, value in TINY.items() if name not in {"epochs", "patience"}}
        patched.setattr(million_items, "SASREC", small)
        patched.setattr(million_items, "Console", lambda _: QUIET)
        words = ["--items", "", "--dataset", str(folder), "--epochs", "12", "--drawn", "8", "--rates", "10,20"]
        million_items.main([*words, "--out", str(folder.parent / "report.json")])
    accuracy = json.loads((folder.parent / "report.json").read_text())["accuracy"]
    timed = {"seconds": [9.0, 2.0, 3.0, 2.5], "peak_bytes": 4.2e9}
    step = {"items": 1000, "softmax": "sampled", "trains": "rows", "planned_bytes": 5e9}
    left_out = {**step, "softmax": "full", "trains": "adamw", "planned_bytes": 69e9, "left_out": "too large"}
    return {"steps": [{**step, **timed}, left_out], "accuracy": accuracy}


def test_every_loss_learns_the_circle(report):
    rows = {row["loss"]: row for row in report["accuracy"]}
    assert [row["rate"] for row in report["accuracy"]] == [None, 10.0, 20.0, None, None]
    assert list(rows) == ["full", "sampled, rows", "sampled, adamw", "gbce, adamw"]
    assert million_items.rows.RATE == RATE
    assert rows["full"]["relative"] == 0
    for row in rows.values():
        assert row["NDCG@10"] > (0.3 if row["loss"].startswith("gbce") else 0.6), row["loss"]  # by chance 0.22
    assert rows["gbce, adamw"]["HR@10"] > 0.8  # 10 of 21 by chance
    assert rows["sampled, rows"]["against full"]["low"] <= rows["sampled, rows"]["against full"]["high"]


def test_tables_show_both_parts(report, monkeypatch):
    path = Path(__file__).parents[1] / "docs" / "speed_figures.py"
    spec = importlib.util.spec_from_file_location("speed_figures_of_test", path)
    figures = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, figures)
    spec.loader.exec_module(figures)
    steps = figures.million_items(report)
    assert "| `sampled` | those that are read | 2.5 s, 4.2 GB |" in steps
    assert "left out, 69 GB planned" in steps
    assert "| sampled, rows, rate 10 | 8 |" in figures.losses(report)
    assert figures.losses({"accuracy": []}) == "Not measured yet."
