"""The command line: help, errors, exit codes, where output goes."""

import json
import os
import resource
import subprocess
import sys

import pytest
import typer

from delrec_lite.cli.app import VERBS, app
from tests.command import PROGRAM, run
from tests.tiny import dataset
from tests.unprivileged import without_privileges


def computing(*command):
    """CPU seconds of a command, and the finished process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


@pytest.fixture(scope="module")
def python_alone():
    return min(computing(sys.executable, "-c", "pass")[0] for _ in range(3))


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_quick_and_has_an_example(verb, python_alone):
    """At most half a second, or on a slow machine 22 starts of Python alone (0.02 s each where this was set)."""
    tries = [computing(PROGRAM, *([verb] if verb else []), "--help") for _ in range(3)]
    done = tries[0][1]
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert f"delrec-lite {verb or 'quickstart'}" in done.stdout
    assert min(seconds for seconds, _ in tries) < max(0.5, 22 * python_alone)


def test_every_verb_that_prints_results_has_json():
    commands = typer.main.get_command(app).commands
    leaves = {name: list(getattr(c, "commands", {"": c}).values()) for name, c in commands.items() if name != "serve"}
    for name, subcommands in leaves.items():
        for command in subcommands:
            assert any("--json" in parameter.opts for parameter in command.params), name


def test_version_is_the_package_s():
    from delrec_lite import __version__

    assert run("--version").stdout.strip() == f"delrec-lite {__version__}"


def test_the_library_imports_no_heavy_package():
    code = "import sys, delrec_lite, delrec_lite.cli.app, delrec_lite.runtime.recommender\n"
    code += "print([m for m in ('torch', 'transformers', 'peft', 'llama_cpp', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_recommend_prints_a_table_and_keeps_the_rest_off_stdout(tiny_bundle):
    done = run("recommend", tiny_bundle, "--history", "red river", "-k", 3)
    assert done.returncode == 0, done.stderr
    titles = [title for title in dataset().catalog.titles if title in done.stdout]
    assert len(titles) == 3
    assert "red river -> Red River (1950)" in done.stderr
    assert " ms (" in done.stderr


def test_recommend_json_is_one_document(tiny_bundle, tmp_path):
    history = tmp_path / "history.txt"
    history.write_text("Red River\n\nBlue Garden (1964)\n")
    done = run("recommend", tiny_bundle, "--history-file", history, "-k", 2, "--json")
    data = json.loads(done.stdout)
    assert [item["rank"] for item in data["items"]] == [1, 2]
    assert [match["title"] for match in data["matched"]] == ["Red River (1950)", "Blue Garden (1964)"]


def test_candidates_and_new_titles(tiny_bundle):
    arguments = ["recommend", tiny_bundle, "--history", "Red River", "--candidates", "Blue Garden", "--json"]
    assert len(json.loads(run(*arguments).stdout)["items"]) == 1
    refused = run(*arguments, "--candidates", "Purple Cactus", "--on-unknown", "refuse")
    assert refused.returncode == 2
    accepted = json.loads(run(*arguments, "--candidates", "Purple Cactus", "--allow-new").stdout)
    assert {"Purple Cactus", "Blue Garden (1964)"} == {item["title"] for item in accepted["items"]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["recommend", "BUNDLE", "--history", "Purple Cactus", "--on-unknown", "refuse"], 2, "nearest"),
        (["recommend", "BUNDLE", "--on-unknown", "drop"], 2, "on_unknown is 'drop'"),
        (["recommend", "BUNDLE", "--history", "\udcff"], 2, "no valid text"),
        (["explain", "BUNDLE", "--history", "Purple Cactus"], 2, "nothing of the history"),
        (["recommend", "BUNDLE", "--history", "Red River", "-k", "0"], 2, "at least one"),
        (["recommend", "nothing.delrec", "--history", "x"], 6, "no bundle at nothing.delrec"),
        (["recommend", "BUNDLE", "--history-file", "nowhere.txt"], 8, "nowhere.txt"),
        (["train", "no-such-recipe"], 3, "ml-100k-cpu"),
        (["eval", "bad.yaml"], 3, "unknown key 'model.sofft_tokens'"),
        (["pull", "no-such-thing"], 2, "no-such-thing"),
        (["export", "ml-100k-cpu", "--quant", "q8_0"], 2, "--out"),
        (["export", "ml-100k-cpu", "--quant", "q9", "--out", "x.delrec"], 2, "q9"),
    ],
)
def test_bad_input_is_one_clear_line(tiny_bundle, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("name: x\nmodel:\n  sofft_tokens: 3\n")
    done = run(*[tiny_bundle if a == "BUNDLE" else a for a in arguments])
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "tiny.delrec"]


def test_a_traceback_is_shown_only_with_the_debug_switch(tmp_path):
    assert "Traceback" in run("recommend", tmp_path / "no", "--history", "x", DELREC_DEBUG="1").stderr


def test_a_corrupt_bundle_is_named(tiny_bundle):
    model = tiny_bundle / "model-f16.gguf"
    model.write_bytes(model.read_bytes()[:1000])
    done = run("recommend", tiny_bundle, "--history", "Red River")
    assert done.returncode == 6
    assert "model-f16.gguf" in done.stderr


PREPARE = ["prepare", "own", "--interactions", "log.csv", "--items", "items.csv", "--k-core", "1", "--candidates", "3"]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """A folder with a log, its items, new items, and the data set made of them."""
    folder = tmp_path_factory.mktemp("own")
    log = "".join(f"u{user},i{item},{item}\n" for user in range(6) for item in range(user, user + 5))
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + log)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(10)))
    (folder / "new.csv").write_text("item_id,title\nx1,Purple Cactus\n")
    assert run(*PREPARE, "--out", "data", cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "ml-100k-cpu", "--runs", "FOLDER/runs"],
        [*PREPARE, "--out", "FOLDER/data"],
        ["init", "own", "--data", "data", "--out", "FOLDER/own.yaml"],
        ["bench", "BUNDLE", "-w", "cold", "-r", "1", "--out", "FOLDER/report.json"],
        ["catalog", "add", "BUNDLE", "new.csv", "--out", "FOLDER/more.delrec"],
        ["pull", "ml-100k"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_written_is_named(shared_tiny_bundle, own_data, tmp_path, arguments):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    command = [str(shared_tiny_bundle) if a == "BUNDLE" else a.replace("FOLDER", str(folder)) for a in arguments]
    done = run(*command, cwd=own_data, preexec=without_privileges, DELREC_CACHE=str(folder / "cache"))
    assert done.returncode == 8, done.stderr
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


def test_shell_completion_is_offered():
    assert "--install-completion" in run("--help").stdout


def test_an_interrupt_says_that_the_same_command_resumes(tmp_path):
    """Ctrl-C while a run waits for its data."""
    code = (
        "import os, signal\n"
        "from delrec_lite.cli import app\n"
        "from delrec_lite.pipeline import run\n"
        "run.pull = lambda *rest, **more: signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys\n"
        f"sys.argv = ['delrec-lite', 'train', '--runs', {str(tmp_path / 'runs')!r}]\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "resumes after the last finished stage" in done.stderr
    assert "Traceback" not in done.stderr
