"""Every command of README and docs exists, and the README commands that query a bundle run as written."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from delrec_lite.cli.app import VERBS, app
from tests.conftest import export_tiny

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
INSTALLED = ".venv/bin/"  # where `make setup` puts the program
FIRST_SCREEN = TEXT[: TEXT.index("## Train it yourself")]


def commands(text=TEXT):
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        lines = (line.removeprefix(INSTALLED) for line in block.splitlines())
        yield from (line for line in lines if line.strip() and not line.startswith("#"))


def documented_commands():
    """Every `delrec-lite` line of README and docs, by its page."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").removeprefix(INSTALLED)
            if line.startswith("delrec-lite "):
                yield pytest.param(line, id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("line", list(documented_commands()))
def test_commands_of_all_pages_have_the_options_that_they_use(line):
    words, command = shlex.split(line, comments=True)[1:], typer.main.get_command(app)
    while inner := getattr(command, "commands", None):
        command = inner[words.pop(0)]
    command.make_context("delrec-lite", words)


def test_the_first_screen_is_short():
    assert len(list(commands(FIRST_SCREEN))) == 3
    (block,) = re.findall(r"```python\n(.*?)```", FIRST_SCREEN, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) == 3
    table = re.search(r"<!-- table headline -->(.*?)<!-- /table headline -->", FIRST_SCREEN, re.DOTALL)[1]
    assert 2 < len([line for line in table.splitlines() if line.startswith("|")]) <= 2 + 8
    assert "docs/accuracy.md" in FIRST_SCREEN


def test_the_readme_is_short():
    assert len(TEXT.split()) < 900


def test_the_table_of_commands_names_every_verb():
    named = set(re.findall(r"^\| `delrec-lite (\w+)", TEXT, re.MULTILINE))
    assert named == set(VERBS)


def test_the_table_of_extras_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `delrec-lite\[(\w+)\]`", TEXT, re.MULTILINE)) == set(extras) - {"dev"}


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [word for line in commands() if line.startswith("make ") for word in line.split()[1:]]
    assert {"setup", "demo", "test"} <= set(named)
    assert set(named) <= set(targets)


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("delrec-lite ")])
def test_commands_run_as_written(line, tiny_base, tmp_path):
    """A tiny bundle with the two films of the README replaces the demo bundle."""
    words = shlex.split(line)
    assert words[1] == "recommend", "this test only runs commands that query a bundle"
    bundle = tmp_path / words[2]
    bundle.parent.mkdir(parents=True)
    exported = export_tiny(tiny_base, bundle).path
    rename(exported, {0: "Toy Story (1995)", 1: "Star Wars (1977)"})
    process = subprocess.run([BIN / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert len([row for row in process.stdout.splitlines() if "%" in row]) == 10


def test_the_notebook_lines_run(tiny_base, tmp_path):
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert block
    bundle = tmp_path / re.search(r'load\("(.*?)"\)', block[1])[1]
    bundle.parent.mkdir(parents=True)
    rename(export_tiny(tiny_base, bundle).path, {0: "Toy Story (1995)", 1: "Star Wars (1977)"})
    code = block[1] + "\nprint(len(_.items))"
    code = code.replace("recommender.recommend(", "_ = recommender.recommend(")
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "10", process.stderr


def rename(bundle, titles):
    """Give items of a bundle other titles, and write its manifest again."""
    import json

    from delrec_lite.runtime.finish import finish_bundle

    path = bundle / "catalog.json"
    catalog = json.loads(path.read_text())
    for item, title in titles.items():
        catalog["titles"][item] = title
    path.write_text(json.dumps(catalog))
    manifest = json.loads((bundle / "manifest.json").read_text())
    staging = bundle.with_name("staging")
    bundle.rename(staging)
    facts = {key: manifest[key] for key in ("name", "model", "provenance", "licences", "gated")}
    finish_bundle(staging, bundle, **facts)


def test_links_inside_the_repository_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
