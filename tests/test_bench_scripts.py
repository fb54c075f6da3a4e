"""Every script of the bench is called in the same way, and the commands that the pages show are ones that it takes."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from delrec_lite.bench.script import write_json

ROOT = Path(__file__).parents[1]
# Processes that another module of the bench starts: they read a job from standard input.
PROCESSES = {"peer_process", "rectools_process", "workloads"}
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "bench").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem not in PROCESSES
)
PAGES = (ROOT / "bench" / "results" / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CHANGELOG.md")
SHOWN = sorted(
    {
        line
        for page in PAGES
        for line in re.findall(r"`python -m delrec_lite\.bench\.([^`]+)`", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_its_own_command_and_takes_out(name):
    module = import_module(f"delrec_lite.bench.{name}")
    assert f"``python -m delrec_lite.bench.{name}" in module.__doc__.splitlines()[0]
    help_text = module.parser().format_help()
    assert f"python -m delrec_lite.bench.{name}" in help_text
    assert "--out" in help_text
    with pytest.raises(SystemExit) as unknown:
        module.main(["--no-such-option"])
    assert unknown.value.code == 2


@pytest.mark.parametrize("line", SHOWN)
def test_commands_in_the_docs_are_accepted(line):
    name, *words = shlex.split(line)
    assert name in SCRIPTS
    if words:  # else the page names the module and not a call of it
        assert import_module(f"delrec_lite.bench.{name}").parser().parse_args(words)


def test_a_report_goes_to_the_file_or_to_standard_output(tmp_path, capsys):
    write_json({"ms": 1.5}, tmp_path / "r.json")
    assert capsys.readouterr().out == ""
    write_json({"ms": 1.5}, None)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "r.json").read_text()) == {"ms": 1.5}
