"""`delrec-lite reproduce`: every committed report can be made again, and a figure that differs is noticed."""

import importlib
import json
import re
import shlex

import pytest
import typer
import yaml

from delrec_lite.bench.reproduction.entries import CHECKOUT, RESULTS, Tolerance, read_plan
from delrec_lite.bench.reproduction.run import choose, compared, reproduce, rows_in
from delrec_lite.cli.app import app
from delrec_lite.console import QUIET
from delrec_lite.errors import DataError, DelrecError, UsageError
from tests.command import run

PLAN = read_plan()
ROWS = {
    row: line
    for line in (RESULTS / "README.md").read_text().splitlines()
    for row in re.findall(r"^\| `([\w-]+)\.json`", line)
}
# Options that say where results go, which `reproduce` decides itself.
PLACES = {"--out", "--runs", "--llama-cpp", "FOLDER"}


def test_every_report_can_be_reproduced_and_every_shipped_recipe_is_measured_or_said_to_be_not():
    reports = {path.stem for path in RESULTS.glob("*.json")}
    assert set(PLAN.entries) == reports, "bench/results/reproduce.yaml has the commands and tolerances of every report"
    recipes = {path.stem for path in (CHECKOUT / "delrec_lite" / "recipes").glob("*.yaml")}
    named = "\n".join(command for entry in PLAN.entries.values() for command in entry.commands)
    assert {recipe for recipe in recipes if not re.search(rf" {recipe}\b(?!-)", named)} == set(PLAN.not_measured)


@pytest.mark.parametrize("name", PLAN.entries)
def test_a_report_compared_with_itself_holds_and_its_commands_are_those_of_the_table(name):
    entry = PLAN.find(name)
    result = compared(entry, "", RESULTS / f"{name}.json")
    assert result.misses == []
    assert "2026" in result.committed_on
    words = [word for command in entry.commands[-1:] for word in shlex.split(command)]
    options = {word for word in words if word.startswith("-")} - PLACES
    assert options <= set(re.findall(r"--?[a-z][a-z-]*", ROWS[name])) or "`make " in ROWS[name]


@pytest.mark.parametrize(
    "command",
    sorted({c for e in PLAN.entries.values() for c in (*e.commands, *(c for _, more in e.rows for c in more))}),
)
def test_every_command_has_the_options_that_it_uses(command, tmp_path):
    words = shlex.split(command.format(checkout=CHECKOUT, data=tmp_path, recipe="r.yaml"))
    if words[0] == "delrec-lite":
        group, words = typer.main.get_command(app), words[1:]
        while inner := getattr(group, "commands", None):
            group = inner[words.pop(0)]
        group.make_context("delrec-lite", words)
        return
    assert words[:2] == ["python", "-m"]
    words = [str(tmp_path / word) if word.endswith(".json") else word for word in words]
    importlib.import_module(words[2]).parser().parse_args(words[3:])


@pytest.mark.parametrize(
    ("text", "committed", "near", "far"),
    [
        ("within 0.01", 0.5, 0.51, 0.4899),
        ("ratio 3", 10.0, 30.0, 3.3),
        ("exact", 0, 0, 1),
        ("exact", "a", "a", "b"),
        ("within 0.01", 0.0, -0.01, None),
        ("ratio 3", 1.0, 0.34, float("nan")),
    ],
)
def test_tolerances(text, committed, near, far):
    tolerance = Tolerance.parse(text)
    assert str(tolerance) == text
    assert tolerance.allows(committed, near)
    assert not tolerance.allows(committed, far)


@pytest.mark.parametrize("text", ["within", "ratio", "about 3", "exact 3", "within x", ""])
def test_what_is_no_tolerance_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Tolerance.parse(text)


@pytest.fixture
def results(tmp_path):
    """A folder with one report of two rows, which a command makes again."""
    folder = tmp_path / "results"
    folder.mkdir()
    report = {
        "created": "2026-01-02T00:00:00Z",
        "commit": "abc",
        "machine": {"cpu": "Old CPU", "cores_allowed": 2},
        "recipe": {"name": "r"},
        "rows": [
            {"model": "A", "protocol": "full", "metrics": {"HR@10": 0.2}, "ms": 10.0},
            {"model": "B", "protocol": "full", "metrics": {"HR@10": 0.3}, "ms": 20.0, "samples": [1, 2]},
        ],
    }
    (folder / "films.json").write_text(json.dumps(report))
    write = f"python -c \"import json, pathlib, sys; r = json.loads(pathlib.Path(sys.argv[1]).read_text()); r['rows'][1]['metrics']['HR@10'] = float(sys.argv[2]); pathlib.Path('films.json').write_text(json.dumps(r))\" {folder}/films.json"  # noqa: E501
    films = {
        "minutes": 1,
        "commands": ["python -c \"import pathlib; assert pathlib.Path(r'{recipe}').is_file()\"", f"{write} 0.3"],
        "rows": {"B": [f"{write} 0.4"]},
        "figures": {"rows/*/metrics/*": "within 0.01", "rows/*/ms": "ratio 3"},
    }
    broken = {"minutes": 1, "commands": ["python -c 'raise SystemExit(3)'"], "figures": {"rows/*": "exact"}}
    far = {**broken, "needs": {"data": ["steam"], "packages": ["no_such_package"]}}
    for name in ("broken", "far"):
        (folder / f"{name}.json").write_text(json.dumps({**report, "rows": [{"model": "C", "ms": 1.0}]}))
    plan = {"reports": {"films": films, "broken": broken, "far": far}, "not_measured": {"paper": "no GPU"}}
    (folder / "reproduce.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder


def test_a_report_is_made_again_and_a_row_by_its_own_commands(results, tmp_path):
    plan = read_plan(results)
    whole = reproduce(plan.find("films"), "", tmp_path / "work", None, QUIET, results)
    assert whole.misses == []
    assert len(whole.figures) == 4
    assert "Old CPU, 2 cores, 2026-01-02, commit abc" in whole.committed_on
    row = reproduce(plan.find("films"), "B", tmp_path / "work", None, QUIET, results)
    assert [(f.path, f.committed, f.measured) for f in row.misses] == [("rows/B,full/metrics/HR@10", 0.3, 0.4)]
    assert {f.path.split("/")[1] for f in row.figures} == {"B,full"}


def test_a_figure_that_the_new_report_lacks_is_beyond(results, tmp_path):
    report = json.loads((results / "films.json").read_text())
    del report["rows"][0]
    (tmp_path / "new.json").write_text(json.dumps(report))
    result = compared(read_plan(results).find("films"), "", tmp_path / "new.json", results)
    assert {figure.path for figure in result.misses} == {"rows/A,full/metrics/HR@10", "rows/A,full/ms"}


def test_what_cannot_run_says_why(results, tmp_path):
    plan = read_plan(results)
    with pytest.raises(DelrecError, match="broken: python -c ended with 3"):
        reproduce(plan.find("broken"), "", tmp_path / "work", None, QUIET, results)
    with pytest.raises(UsageError, match="needs --data FOLDER with steam"):
        reproduce(plan.find("far"), "", tmp_path / "work", None, QUIET, results)
    (tmp_path / "steam").mkdir()
    with pytest.raises(UsageError, match="needs no_such_package"):
        reproduce(plan.find("far"), "", tmp_path / "work", tmp_path, QUIET, results)
    with pytest.raises(DataError, match="no report at"):
        compared(plan.find("films"), "", tmp_path / "missing.json", results)
    with pytest.raises(UsageError, match="clone the repository"):
        raise_hint(lambda: read_plan(tmp_path))


def raise_hint(call):
    try:
        call()
    except UsageError as error:
        raise UsageError(error.hint) from error


def test_reports_and_rows_are_found_by_name(results):
    plan = read_plan(results)
    assert rows_in(plan.find("films"), results) == ["A", "A,full", "B", "B,full"]

    def chosen(text):
        return [(entry.name, row) for entry, row in choose(plan, text, results)]

    assert chosen("films.json") == [("films", "")]
    assert chosen("films/B") == [("films", "B")]
    assert chosen("A") == [("films", "A")]
    assert [name for name, _ in chosen("all")] == ["films", "broken", "far"]
    for text, message in (
        ("C", "one of broken/C, far/C"),
        ("paper", "measure it, and commit it"),
        ("films/Z", "one of A"),
        ("flims", "did you mean films"),
    ):
        with pytest.raises(UsageError) as error:
            chosen(text)
        assert message in error.value.hint


def test_the_command_lists_compares_and_fails_beyond_a_tolerance(tmp_path):
    listed = json.loads(run("reproduce", "--list", "--json").stdout)
    assert {row["name"] for row in listed} == set(PLAN.entries) | set(PLAN.not_measured)
    name = "new-items-ml-100k"
    assert "its trained row" in run("reproduce", name, "--list").stdout
    report = json.loads((RESULTS / f"{name}.json").read_text())
    report["scored by"]["its trained row"]["HR@10"] += 0.1
    (tmp_path / "new.json").write_text(json.dumps(report))
    done = run("reproduce", name, "--report", tmp_path / "new.json")
    assert done.returncode == DelrecError.exit_code
    assert "beyond" in done.stdout
    assert "scored by/its trained row/HR@10" in done.stdout
    assert "committed on AMD EPYC" in done.stderr
    assert f"1 of {name}" in done.stderr
    assert run("reproduce").returncode == UsageError.exit_code
