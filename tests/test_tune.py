"""`tune` searches on validation users alone, prunes, resumes, and writes a recipe that `train` takes."""

import json
import sys

import pytest
import yaml

from delrec_lite.config import load_recipe
from delrec_lite.data.types import Dataset
from delrec_lite.errors import ConfigError, DelrecError, MissingPackageError, StorageError, UsageError
from delrec_lite.tuning import study
from delrec_lite.tuning.budget import Budget, parse_time
from delrec_lite.tuning.space import Choices, Interval, default_space, read_space
from tests import command
from tests.strangers import snapshot


@pytest.fixture
def call(tiny_run, tmp_path, capsys):
    """Calls a command on the tiny recipe; returns exit code, result and messages."""
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_run.recipe().model_dump(mode="json", exclude_unset=True)))

    def run(verb, *options):
        words = [verb, path, "--runs", tmp_path / "runs", "--json", *options]
        code = command.call(*words)
        out = capsys.readouterr()
        return code, json.loads(out.out) if out.out else None, out.err

    return run


@pytest.fixture
def space(tmp_path):
    def write(content):
        path = tmp_path / "space.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


TEACHER = {"teacher.settings.lr": {"low": "1e-3", "high": 1e-2, "log": True}, "teacher.settings.hidden": [8, 16]}


def test_teachers_are_tuned_and_the_best_recipe_trains(call, space, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "test", lambda _: 1 / 0)
    options = ("--model", "teacher", "--space", space(TEACHER))
    code, result, err = call("tune", *options, "--trials", 2)
    assert code == 0, err
    folder = tmp_path / "runs" / "r-tune-teacher"
    assert result["folder"] == str(folder)
    assert [trial["folder"] for trial in result["trials"]] == ["trial-000", "trial-001"]
    assert all(set(trial["values"]) == set(TEACHER) for trial in result["trials"])
    assert result["best"]["value"] == max(t["value"] for t in result["trials"] if t["value"] is not None)
    best = load_recipe(str(folder / "best.yaml"))
    assert best.name == "r-tuned"
    assert best.teacher.settings["lr"] == result["best"]["values"]["teacher.settings.lr"]
    assert best.teacher.settings["max_length"] == 8, "the rest is the recipe's"
    assert "<svg" in (folder / "tune.svg").read_text()
    assert (folder / "tune.md").read_text().count("| trial-") == 2
    assert {"commit", "recipe", "space"} <= json.loads((folder / "tune.json").read_text()).keys()

    monkeypatch.setattr(study, "validated", lambda *_: 1 / 0)
    assert call("tune", *options, "--trials", 2)[1] == result, "a later call does nothing when all is done"


def test_the_student_is_tuned_by_the_same_figure_and_shares_stage_1(call, space, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "test", lambda _: 1 / 0)
    code, result, err = call("tune", "--space", space({"finetune.lr": [1e-3, 1e-2]}), "--trials", 2)
    assert code == 0, err
    assert {trial["decides"] for trial in result["trials"]} == {"expected_sampled NDCG@10"}
    assert err.count("stage 1 (distil) ...") == 1
    best = load_recipe(str(tmp_path / "runs" / "r-tune-student" / "best.yaml"))
    assert 0 < best.finetune.valid_every < best.finetune.epochs, "there is a curve to prune by"
    assert best.finetune.lr in (1e-3, 1e-2)


def test_an_interrupted_trial_is_begun_again_in_its_folder(call, space, tmp_path, monkeypatch):
    options = ("--model", "teacher", "--space", space(TEACHER), "--trials", 2)
    real = study.validated

    def cut(run, stage):
        if run.folder.name == "trial-001":
            raise KeyboardInterrupt
        return real(run, stage)

    monkeypatch.setattr(study, "validated", cut)
    assert call("tune", *options)[0] == 130
    monkeypatch.setattr(study, "validated", real)
    asked = yaml.safe_load((tmp_path / "runs/r-tune-teacher/trial-001/recipe.yaml").read_text())["teacher"]["settings"]
    code, result, _ = call("tune", *options)
    assert [trial["folder"] for trial in result["trials"]] == ["trial-000", "trial-001"]
    assert result["trials"][1]["values"]["teacher.settings.lr"] == asked["lr"]


def test_a_bad_curve_ends_a_trial(call, space, monkeypatch):
    from delrec_lite.teachers import fit

    monkeypatch.setattr(study, "WARM_TRIALS", 1)
    monkeypatch.setattr(study, "WARM_VALIDATIONS", 0)
    curves, real = iter((0.9, 0.1, 0.95)), fit._figures

    def figures(*arguments):
        return {**real(*arguments), "expected_ndcg@10": next(curves)}

    monkeypatch.setattr(fit, "_figures", figures)
    options = ("--model", "teacher", "--space", space({"teacher.settings.seed": {"low": 1, "high": 1000}}))
    _, result, err = call("tune", *options, "--trials", 3)
    assert [trial["state"] for trial in result["trials"]] == ["complete", "pruned", "complete"], err


def test_a_trial_that_fails_is_recorded_and_three_end_the_search(call, space, tmp_path):
    path = space({"teacher.settings.heads": {"low": 3, "high": 5, "step": 2}})
    code, _, err = call("tune", "--model", "teacher", "--space", path, "--trials", 9)
    assert (code, "the first 3 trials all failed" in err) == (DelrecError.exit_code, True), err
    report = json.loads((tmp_path / "runs" / "r-tune-teacher" / "tune.json").read_text())
    assert [(trial["state"], bool(trial["error"])) for trial in report["trials"]] == [("failed", True)] * 3


def test_another_space_or_recipe_is_another_search(call, space, tmp_path):
    options = ("--model", "teacher", "--trials", 1)
    assert call("tune", *options, "--space", space(TEACHER))[0] == 0
    for other in (("--space", space({"teacher.settings.hidden": [8]})), ("--set", "data.domain=game")):
        code, _, err = call("tune", *options, *other)
        assert (code, "another space" in err) == (UsageError.exit_code, True)


def test_what_lies_in_the_way_is_left_alone(call, tmp_path):
    theirs = tmp_path / "runs" / "r-tune-student"
    theirs.mkdir(parents=True)
    (theirs / "study.sqlite").write_text("mine")
    before = snapshot(tmp_path / "runs")
    assert call("tune", "--trials", 1)[0] == UsageError.exit_code
    assert snapshot(tmp_path / "runs") == before


def test_a_damaged_study_is_named(call, space, tmp_path):
    options = ("--model", "teacher", "--space", space(TEACHER), "--trials", 1)
    assert call("tune", *options)[0] == 0
    (tmp_path / "runs" / "r-tune-teacher" / "study.sqlite").write_bytes(b"not a database" * 1000)
    code, _, err = call("tune", *options)
    assert (code, "study.sqlite cannot be read" in err) == (StorageError.exit_code, True), err


def test_without_optuna_one_line_says_how_to_install_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = call("tune", "--trials", 1)
    assert (code, 'pip install "delrec-lite[tune]"' in err) == (MissingPackageError.exit_code, True)


@pytest.mark.parametrize("model", ["student", "teacher"])
@pytest.mark.parametrize("name", ["ml-100k-cpu", "beauty", "ml-100k-paper"])
def test_every_value_of_a_default_space_is_one_that_the_recipe_takes(name, model):
    for dimension in default_space(load_recipe(name), model):
        ends = (dimension.low, dimension.high) if isinstance(dimension, Interval) else dimension.values
        for value in ends:
            assert load_recipe(name, {dimension.key: value}).value(dimension.key) == value


def test_a_space_is_typed_by_the_schema(space):
    path = space(
        "finetune.lr: {low: 1e-4, high: 2e-3, log: true}\nfinetune.rank: {low: 4, high: 32, step: 4}\n"
        "finetune.epochs: {low: 1, high: 3}\nteacher.kind: [[sasrec, gru4rec], caser]\nmodel.layers: [null, 8]\n"
    )
    lr, rank, epochs, kind, layers = read_space(path, lambda values: load_recipe("ml-100k-cpu", values))
    assert lr == Interval("finetune.lr", 1e-4, 2e-3, log=True)
    assert (rank.whole, rank.step, epochs.whole) == (True, 4, False)
    assert kind == Choices("teacher.kind", (["sasrec", "gru4rec"], "caser"))
    assert layers.values == (None, 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("finetune.lrr: [1]", "did you mean finetune.lr"),
        ("finetune: {lr: [1]}", "is a section"),
        ("finetune.lr: 3", "neither a list"),
        ("finetune.lr: []", "neither a list"),
        ("finetune.lr: {lo: 1, high: 2}", "did you mean low"),
        ("finetune.lr: {low: 1}", "high"),
        ("finetune.lr: {low: 2, high: 1}", "not below"),
        ("finetune.lr: {low: 0, high: 1, log: true}", "log needs"),
        ("finetune.lr: {low: a, high: 1}", "no number"),
        ("finetune.lr: {low: .nan, high: 1}", "no number"),
        ("finetune.lr: {low: 1, high: 2, step: 5}", "does not fit"),
        ("finetune.rank: [8, 0]", "finetune.rank"),
        ("finetune.rank: {low: 1.5, high: 8}", "finetune.rank"),
        ("finetune.adapter: [lora, lorra]", "did you mean lora"),
        ("teacher.settings.sasrec.hiden: [8]", "did you mean hidden"),
        ("name: [a, b]", "the name is no setting"),
        ("[1]", "holds no space"),
        ("", "holds no space"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_space_is_refused_by_key(space, text, words):
    with pytest.raises(ConfigError) as raised:
        read_space(space(text), lambda values: load_recipe("ml-100k-cpu", values))
    assert words in f"{raised.value.message} {raised.value.hint}"


def test_times():
    seconds = {"2h": 7200, "90m": 5400, "1h30m": 5400, "45 s": 45, "1d": 86400, "": None}
    assert {text: parse_time(text) for text in seconds} == seconds
    for text in ("soon", "2", "-1h", "1.5.5h", "0h", "h"):
        with pytest.raises(UsageError, match="time"):
            parse_time(text)
    assert not Budget(3, 10).is_spent(2, 9)
    assert Budget(3, 10).is_spent(3, 0)
    assert Budget(3, 10).is_spent(0, 10)
