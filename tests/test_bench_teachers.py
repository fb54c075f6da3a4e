"""The bench of teachers: validation users choose the settings, and all teachers rank the same candidate sets."""

import json

import numpy as np

from delrec_lite.bench import teachers as bench
from delrec_lite.evaluation.metrics import per_user


def test_only_the_settings_chosen_on_validation_rank_the_test_users(tiny_run, tmp_path, monkeypatch):
    run = tiny_run()
    tiny = {"hidden": 8, "max_length": 8, "lr": 0.02}
    monkeypatch.setattr(bench, "load_recipe", lambda _: None)
    monkeypatch.setattr(bench, "Run", lambda *_: run)
    monkeypatch.setattr(bench, "SETTINGS", ({**tiny, "epochs": 1}, {**tiny, "epochs": 12}, {**tiny, "epochs": 2}))
    bench.main(["r", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "first.json")])
    report = json.loads((tmp_path / "first.json").read_text())
    figures = [trial["validation"][bench.CHOOSES] for trial in report["tried"]]
    assert report["chosen"] == report["tried"][int(np.argmax(figures))]["settings"]
    assert report["configs"]["eSASRec"]["epochs"] == report["chosen"]["epochs"]
    assert set(report["ranks"]) == {"SASRec", "eSASRec"} == set(report["training"])
    for row in report["rows"]:
        if row["protocol"] in report["ranks"]["SASRec"]:
            ranks = np.array(report["ranks"][row["model"]][row["protocol"]])
            assert abs(per_user(ranks, "NDCG@10").mean() - row["metrics"]["NDCG@10"]) < 1e-4
    monkeypatch.setattr(bench, "fit", None)  # trained teachers are read back
    bench.main(["r", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "again.json")])
    repeated = json.loads((tmp_path / "again.json").read_text())
    assert repeated["ranks"]["eSASRec"]["full"] == report["ranks"]["eSASRec"]["full"]
