"""`--set` changes a recipe by its schema, and several values of a key are a sweep."""

import json
import re

import pytest
import yaml

from delrec_lite.config import load_recipe, parse
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.pipeline.overrides import grid, load_changed, parse_sets
from delrec_lite.pipeline.sweep import trial_name
from tests.command import run as command


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["finetune.lr=5e-4"], "finetune.lr", 5e-4),
        (["finetune.train_soft=true"], "finetune.train_soft", True),
        (["model.layers=null"], "model.layers", None),
        (["model.layers = 8"], "model.layers", 8),
        (["model.base=a: b #c"], "model.base", "a: b #c"),
        (["model.base='x, y'"], "model.base", "x, y"),
        (["model.base=O'Brien"], "model.base", "O'Brien"),
        (["teacher.kind=[sasrec, gru4rec]"], "teacher.kind", ["sasrec", "gru4rec"]),
        (["data.text_columns=[]"], "data.text_columns", ()),
        (["teacher.kind=gru4rec", "teacher.settings.hidden=8"], "teacher.settings", {"hidden": 8}),
        (["teacher.kind=gru4rec", "teacher.settings.dropout=0.1"], "teacher.settings.dropout", 0.1),
        (["teacher.settings.sasrec.lr=0.01"], "teacher.settings", {"sasrec": {"lr": 0.01}}),
        (
            ["teacher.kind=sasrec", "teacher.settings={hidden: 8, lr: 1e-3}"],
            "teacher.settings",
            {"hidden": 8, "lr": 1e-3},
        ),
        (["name=other"], "name", "other"),
    ],
)
def test_a_value_is_typed_by_the_schema(options, key, value):
    recipe = load_changed("ml-100k-cpu", options)
    assert recipe.value(key) == value
    assert type(recipe.value(key)) is type(value)
    assert set(recipe.changes) == {option.partition("=")[0].strip() for option in options}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("finetune.lrr=1", "did you mean finetune.lr?"),
        ("finetun.lr=1", "did you mean finetune.lr?"),
        ("lr=1", "did you mean distill.lr or finetune.lr?"),
        ("finetune.soft_tokens=1", "did you mean model.soft_tokens?"),
        ("finetune.zzz=1", "one of finetune.epochs, finetune.tokens_per_step"),
        ("finetune={lr: 1}", "is a section"),
        ("finetune.lr.x=1", "unknown key"),
        ("finetune.adapter=lorra", "did you mean lora?"),
        ("export.quant=q80", "did you mean q8_0?"),
        ("finetune.lr=fast", "--set: finetune.lr: .*number.*'fast'"),
        ("finetune.lr=-1", "finetune.lr"),
        ("finetune.lr=inf", "finetune.lr"),
        ("finetune.lr=nan", "finetune.lr"),
        ("finetune.rank=2.5", "finetune.rank"),
        ("data.text_columns=genres", r"in brackets: data.text_columns=\[genres\]"),
        ("teacher.kind=[sasrec", "not valid YAML"),
        ("model.weights=random", "ml-100k-cpu, changed by --set: model.weights random needs"),
        ("teacher.settings.sasrec.hiden=8", "did you mean hidden?"),
        ("name=..", "name"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest(option, words):
    with pytest.raises(ConfigError) as raised:
        load_changed("ml-100k-cpu", [option])
    assert re.search(words, f"{raised.value.message} {raised.value.hint}"), raised.value.message + raised.value.hint


@pytest.mark.parametrize("option", ["finetune.lr", "=1", "finetune.lr=", "finetune.lr=1,,2", "finetune.lr=1,", ""])
def test_what_is_not_key_and_value_is_refused(option):
    with pytest.raises(UsageError):
        parse_sets([option])


def test_an_alias_of_yaml_changes_one_section_alone(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ndistill: &same {lr: 0.1, seed: 3}\nfinetune: *same\n")
    recipe = load_changed(str(path), ["finetune.seed=5"])
    assert (recipe.distill.seed, recipe.finetune.seed) == (3, 5)


def test_a_key_is_set_once():
    with pytest.raises(UsageError, match="given twice") as raised:
        parse_sets(["finetune.lr=1", "finetune.lr=2"])
    assert "--set finetune.lr=1,2" in raised.value.hint


def test_commas_make_a_grid_and_brackets_a_list():
    sets = parse_sets(["finetune.lr=1e-4,5e-4", "finetune.seed=1,2", "teacher.kind=[sasrec, gru4rec]"])
    recipes = list(grid("ml-100k-cpu-quick", sets))
    assert [(r.finetune.lr, r.finetune.seed) for r, _ in recipes] == [(1e-4, 1), (1e-4, 2), (5e-4, 1), (5e-4, 2)]
    assert {r.teacher.kinds for r, _ in recipes} == {("sasrec", "gru4rec")}
    assert {keys for _, keys in recipes} == {("finetune.lr", "finetune.seed")}
    lists = parse_sets(["teacher.kind=[sasrec, caser],gru4rec"])
    assert [r.teacher.kinds for r, _ in grid("ml-100k-cpu-quick", lists)] == [("sasrec", "caser"), ("gru4rec",)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["finetune.lr=1e-3,0.001"], "same trial twice"),
        (["name=a,b"], "name has several values"),
    ],
)
def test_a_grid_of_the_same_trials_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        list(grid("ml-100k-cpu", parse_sets(options)))


def test_names_of_trials_are_readable_and_differ():
    def name(*options):
        return trial_name(load_changed("ml-100k-cpu", options))

    assert name("finetune.lr=5e-4", "finetune.seed=1") == "finetune.lr-0.0005_finetune.seed-1"
    assert name("finetune.lr=0.0005", "finetune.seed=1", "name=x") == "finetune.lr-0.0005_finetune.seed-1"
    assert name("data.text_columns=[a, b]") != name("data.text_columns=[a-b]")
    assert load_recipe("ml-100k-cpu", {"name": name("model.base=" + "/x" * 200)}), "a valid name of a recipe"
    assert len({name("model.base=" + "/x" * n) for n in (200, 201)}) == 2


@pytest.mark.parametrize("verb", ["export", "eval", "ablate", "quickstart", "plan"])
def test_other_verbs_take_one_value_a_key(verb, tmp_path):
    done = command(verb, "ml-100k-cpu", "--set", "finetune.lr=1,2", cwd=tmp_path)
    assert (done.returncode, "only `train` runs a sweep" in done.stderr) == (UsageError.exit_code, True), done.stderr
    wrong = command(verb, "ml-100k-cpu", "--set", "finetune.rnk=1", cwd=tmp_path)
    assert (wrong.returncode, "did you mean finetune.rank?" in wrong.stderr) == (ConfigError.exit_code, True)
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_what_was_set(tmp_path):
    def peak(*options):
        done = command("plan", "ml-100k-cpu", "--gpu-memory", "8GB", "--json", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["parameters"]

    assert peak("--set", "model.layers=4") < peak()


def test_the_run_folder_records_what_was_set(tiny_run, tmp_path):
    from delrec_lite.console import QUIET
    from delrec_lite.pipeline.run import Run

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_run.recipe().model_dump(mode="json", exclude_unset=True)))
    run = Run(load_changed(str(path), ["finetune.lr=5e-4", "finetune.seed=7"]), tmp_path / "runs", QUIET)
    text = (run.folder / "recipe.yaml").read_text()
    assert "# Set on the command line: finetune.lr=0.0005\n# Set on the command line: finetune.seed=7\n" in text
    assert yaml.safe_load(text)["finetune"]["lr"] == 5e-4
    assert run.recipe.changes == {"finetune.lr": 5e-4, "finetune.seed": 7}


def test_a_changed_setting_of_stage_2_reuses_stage_1(tiny_run, tmp_path):
    from delrec_lite.console import QUIET
    from delrec_lite.pipeline.run import Run

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_run.recipe().model_dump(mode="json", exclude_unset=True)))
    Run(load_changed(str(path), []), tmp_path / "runs", QUIET).finetune()
    run = Run(load_changed(str(path), ["finetune.lr=5e-4"]), tmp_path / "runs", QUIET)
    run.finetune()
    assert {name: stage.computed for name, stage in run.stages.items()} == {
        "prepare": False,
        "teacher": False,
        "distill": False,
        "finetune": True,
    }


def test_a_list_that_is_none_is_told_how_to_write_one():
    with pytest.raises(ConfigError, match="data.text_columns is no list") as raised:
        parse("name: r\ndata: {text_columns: genres}", "r.yaml")
    assert raised.value.hint == "a list is written in brackets: [genres]"
