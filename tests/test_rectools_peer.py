"""RecTools beside ours: another library's scores are ranked as ours are; RecTools itself is not needed."""

import json
import sys

import pytest

from delrec_lite.bench import rectools_peer as bench
from delrec_lite.errors import DelrecError, MissingPackageError

# In place of RecTools' Python: it knows the ring, in which i + 1 comes after item i, and nothing else.
STUB = f"""#!{sys.executable}
import json, sys
import numpy as np
if "-c" in sys.argv:
    sys.exit(0)
job = json.load(sys.stdin)
log = np.load(job["log"])
scores = np.full((log["users"].max() + 1, job["items"]), -np.inf, np.float32)
for user, item in zip(log["users"], log["items"]):  # the last one counts
    scores[user] = -np.inf
    scores[user, (item + 1) % job["items"]] = 1.0
np.save(job["scores"], scores)
print(json.dumps({{"seconds": {{"training": 1.0, "ranking": 0.1}}, "epochs": job["epochs"], "best_epoch": 1}}))
"""


@pytest.fixture
def python(tmp_path):
    path = tmp_path / "python"
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def test_both_rank_the_same_users_and_candidates(tiny_run, tmp_path, monkeypatch, python):
    run = tiny_run()
    monkeypatch.setattr(bench, "load_recipe", lambda _: None)
    monkeypatch.setattr(bench, "Run", lambda *_: run)
    words = ["r", "--python", str(python), "--epochs", "7", "--our-epochs", "1"]
    bench.main([*words, "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    ours, defaults, sizes = report["models"]
    assert (ours, defaults, sizes) == ("SASRec", "RecTools SASRec, its defaults", "RecTools SASRec, sizes of ours")
    rows = {(row["model"], row["protocol"]): row for row in report["rows"]}
    for name in (defaults, sizes):
        assert rows[name, "full"]["metrics"]["HR@1"] == rows[name, "sampled"]["metrics"]["HR@1"] == 1.0
        assert report["models"][name]["epochs"] == 7
    assert {row["users"] for row in report["rows"]} == {24}
    assert report["models"][defaults]["settings"] == {}
    assert report["models"][sizes]["settings"]["n_factors"] == report["models"][ours]["settings"]["hidden"]
    assert {c["against"] for c in report["comparisons"]} == {defaults, sizes}
    assert report["command"].startswith("python -m delrec_lite.bench.rectools_peer r --python")


def test_without_rectools_there_is_one_line_before_anything_is_trained(tmp_path, python):
    for other in (tmp_path / "none", sys.executable):
        with pytest.raises(MissingPackageError, match="RecTools needs an environment of its own") as caught:
            bench.main(["ml-100k-cpu", "--runs", str(tmp_path), "--python", str(other)])
        assert caught.value.hint == "make rectools"
    assert list(tmp_path.iterdir()) == [python]


def test_a_process_that_fails_is_named_by_its_last_line(tiny_run, python):
    python.write_text(STUB.replace("job = json", 'raise SystemExit("no memory")\njob = json'))
    with pytest.raises(DelrecError, match="RecTools' process failed: no memory"):
        bench.peer_scores(tiny_run().dataset, {}, python, 1)
