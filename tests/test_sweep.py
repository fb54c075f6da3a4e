"""A sweep trains every combination, shares what is the same, resumes, and compares on validation users."""

import json

import pytest
import yaml

from delrec_lite.console import Console
from delrec_lite.data.types import Dataset
from delrec_lite.errors import DelrecError, StorageError
from delrec_lite.pipeline.run import Run
from tests import command
from tests.strangers import snapshot


@pytest.fixture
def train(tiny_run, tmp_path, capsys):
    """Calls `train` on the tiny recipe; returns exit code, result and messages."""
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_run.recipe().model_dump(mode="json", exclude_unset=True)))

    def call(*options, json_output=True):
        words = ["train", path, "--runs", tmp_path / "runs", *options, *(["--json"] if json_output else [])]
        code = command.call(*words)
        out = capsys.readouterr()
        return code, json.loads(out.out) if json_output and out.out else out.out, out.err

    return call


GRID = ("--set", "finetune.lr=1e-3,1e-2", "--set", "finetune.seed=1,2")


def test_a_sweep_trains_each_combination_once_and_shares_what_is_the_same(train, tmp_path, monkeypatch):
    computed = []
    real = Run._with_heading
    monkeypatch.setattr(Run, "_with_heading", lambda self, name, make: real(self, name, count(self, name, make)))

    def count(run, name, make):
        return lambda folder: computed.append((run.folder.name, name)) or make(folder)

    code, trials, err = train(*GRID)
    assert code == 0, err
    names = [f"finetune.lr-{lr}_finetune.seed-{seed}" for lr in (0.001, 0.01) for seed in (1, 2)]
    assert [trial["folder"] for trial in trials] == names
    assert [trial["values"] for trial in trials][1] == {"finetune.lr": 0.001, "finetune.seed": 2}
    folder = tmp_path / "runs" / "r-sweep"
    assert all((folder / name / "finetune" / "done.json").is_file() for name in names)
    assert [name for _, name in computed].count("distill") == 1, "shared"
    assert [name for _, name in computed].count("teacher") == 1, "shared"
    assert [name for _, name in computed].count("finetune") == 4
    assert all(0 <= trial["figures"][trial["decides"]] <= 1 for trial in trials)
    assert all(trial["seconds"] > 0 for trial in trials)
    assert "best by expected_sampled NDCG@10: finetune.lr" in err
    report = json.loads((folder / "sweep.json").read_text())
    assert report["trials"] == trials
    assert {"commit", "machine", "recipe"} <= report.keys()
    assert (folder / "sweep.md").read_text().count("\n| ") == 5

    computed.clear()
    code, again, _ = train(*GRID[:1], "finetune.lr=1e-3,1e-2,2e-2", *GRID[2:])
    assert [name for _, name in computed] == ["finetune"] * 2, "finished trials are not made again"
    assert again[:4] == trials


def test_a_sweep_over_stage_1_and_the_base_run_share_the_teacher(train, tmp_path, monkeypatch):
    assert train("--stage", "teacher")[0] == 0
    monkeypatch.setattr("delrec_lite.pipeline.run.fit_teacher", lambda *_: 1 / 0)
    code, trials, err = train("--set", "distill.lr=1e-2,1e-3", "--stage", "distill")
    assert (code, len(trials)) == (0, 2), err


def test_an_interrupted_sweep_goes_on(train, tmp_path, monkeypatch):
    from delrec_lite.pipeline import sweep

    real, left = sweep.validated, [2]

    def cut(run, stage):
        if not left.pop():
            raise KeyboardInterrupt
        left.append(0)
        return real(run, stage)

    monkeypatch.setattr(sweep, "validated", cut)
    assert train(*GRID)[0] == 130
    monkeypatch.setattr(sweep, "validated", real)
    folder = tmp_path / "runs" / "r-sweep"
    first = (folder / "finetune.lr-0.001_finetune.seed-1" / "finetune" / "done.json").read_text()
    assert train(*GRID)[0] == 0
    assert (folder / "finetune.lr-0.001_finetune.seed-1" / "finetune" / "done.json").read_text() == first


def test_teachers_can_be_swept(train):
    code, trials, err = train("--set", "teacher.settings.hidden=8,16", "--stage", "teacher", json_output=False)
    assert code == 0, err
    assert "teacher.settings.hidden" in trials
    assert "seconds" in trials


def test_a_trial_that_fails_leaves_the_others_alone(train, tmp_path):
    code, trials, err = train("--set", "finetune.lr=1e-3,1e30")
    assert code == DelrecError.exit_code
    assert [bool(trial["error"]) for trial in trials] == [False, True]
    assert "not a number" in err
    assert (tmp_path / "runs" / "r-sweep" / "sweep.md").read_text().count("failed") >= 1


def test_wrong_values_are_refused_before_anything_is_trained(train, tmp_path):
    code, _, err = train("--set", "finetune.rank=2,0")
    assert code == 3
    assert "finetune.rank" in err
    assert not (tmp_path / "runs").exists()


def test_fresh_trials_copy_nothing_of_an_earlier_call(train, tmp_path):
    train(*GRID[:2], "--stage", "teacher")
    done = tmp_path / "runs" / "r-sweep" / "finetune.lr-0.001" / "teacher" / "done.json"
    before = done.stat().st_mtime_ns
    train(*GRID[:2], "--stage", "teacher", "--fresh")
    assert done.stat().st_mtime_ns > before


def test_test_users_are_not_read(train, monkeypatch):
    monkeypatch.setattr(Dataset, "test", lambda _: 1 / 0)
    assert train("--set", "finetune.seed=1,2")[0] == 0


def test_a_folder_of_somebody_else_is_left_alone(train, tmp_path):
    theirs = tmp_path / "runs" / "r-sweep"
    theirs.mkdir(parents=True)
    (theirs / "sweep.md").write_text("# mine\n")
    before = snapshot(tmp_path / "runs")
    assert train(*GRID)[0] == StorageError.exit_code
    assert snapshot(tmp_path / "runs") == before


def test_a_follower_receives_what_is_trained(tiny_run):
    run, seen = tiny_run(), []
    run.console = Console("quiet")
    with run.console.followed(lambda stage, step, figures: seen.append((stage, step, set(figures)))):
        run.finetune()
    stages = dict.fromkeys(stage for stage, _, _ in seen)
    assert list(stages) == ["teacher/sasrec", "distill", "finetune"]
    assert {"loss", "ndcg@10"} <= next(figures for stage, _, figures in seen if stage == "teacher/sasrec")
    assert "next_item" in next(figures for stage, _, figures in seen if stage == "finetune")
    assert [step for stage, step, _ in seen if stage == "finetune"] == list(
        range(sum(s == "finetune" for s, _, _ in seen))
    )
