"""Environment switches have one meaning everywhere, and no import changes the environment."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from delrec_lite.cache_folder import cache_folder
from delrec_lite.environment import flag, folder, number, text
from delrec_lite.errors import UsageError

ROOT = Path(__file__).parents[1]
FOLDERS = ("delrec_lite", "export", "bench")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
SWITCHES = ("DELREC_DEBUG", "DELREC_OFFLINE")
OFF, ON = ("", "0", "false", "False", "NO", "off", "None", "n", " 0 "), ("1", "true", "yes", "ON", "2")


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_means_the_same_everywhere(name, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    assert flag(name) is False
    for value in OFF:
        monkeypatch.setenv(name, value)
        assert flag(name) is False, value
    for value in ON:
        monkeypatch.setenv(name, value)
        assert flag(name) is True, value


def test_every_switch_is_read_by_flag():
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    switches = {name for source in sources for name in re.findall(r'flag\("(DELREC_\w+)"\)', source)}
    assert switches == set(SWITCHES)


# Reads one variable; neither sets one nor copies them all for a child process.
READS = re.compile(r"environ\.get\(|getenv\(|environ\[[^\]]+\](?! =)|in os\.environ\b(?!\.)")


def test_every_variable_is_read_in_one_module():
    """Where rubbish is refused, spaces are ignored and off means off."""
    assert all(map(READS.search, ["x = os.environ['A']", "os.getenv('A')", "if 'A' in os.environ:"]))
    assert not any(map(READS.search, ["os.environ['A'] = '1'", "{**os.environ}", "for n, v in os.environ.items():"]))
    # Texts over several lines are documentation, or a program in C.
    sources = {path: re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL) for path in SOURCES}
    reading = {path.relative_to(ROOT).as_posix() for path, source in sources.items() if READS.search(source)}
    assert reading == {"delrec_lite/environment.py"}


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "0", "1e3"])
def test_a_number_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(UsageError, match="WORLD_SIZE is") as raised:
        number("WORLD_SIZE", 1, least=1)
    assert "whole number" in raised.value.hint


def test_numbers_texts_and_folders(monkeypatch):
    for value, expected in (("", 1), (" ", 1), ("2", 2), (" 3\n", 3)):
        monkeypatch.setenv("WORLD_SIZE", value)
        assert number("WORLD_SIZE", 1) == expected
    monkeypatch.setenv("HOME", "/home/of-a-user")
    for value, expected in (("", None), ("~/cache", Path("/home/of-a-user/cache")), (" /data ", Path("/data"))):
        monkeypatch.setenv("DELREC_CACHE", value)
        assert folder("DELREC_CACHE") == expected
        assert text("DELREC_CACHE") == value.strip()
    monkeypatch.setenv("DELREC_CACHE", "~no-such-user-at-all/cache")
    with pytest.raises(UsageError, match="no home folder"):
        folder("DELREC_CACHE")


def test_an_empty_cache_variable_is_none(monkeypatch):
    monkeypatch.setenv("DELREC_CACHE", " ")
    assert cache_folder().name == "delrec-lite"


def test_a_launcher_with_rubbish_is_one_line(monkeypatch):
    from delrec_lite.processes import join

    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'many'"):
        join()


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("false", False)])
def test_tracebacks_are_shown_only_with_the_debug_switch(value, shown):
    command = [sys.executable, "-m", "delrec_lite", "recommend", "no-such-bundle", "--history", "x"]
    done = subprocess.run(
        command, env={**os.environ, "DELREC_DEBUG": value}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ("Traceback" in done.stderr) is shown
    assert done.returncode == (1 if shown else 6)


def test_no_import_changes_the_environment():
    """Of every module, so that a notebook or a server that uses one of them keeps its own settings."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    code = f"""
import importlib, os, pkgutil
before = dict(os.environ)
for package in {packages!r}:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        # The last runs in RecTools' own environment.
        if not module.name.endswith(("__main__", "rectools_process")):
            importlib.import_module(module.name)
            changed = {{name for name in set(before) | set(os.environ) if before.get(name) != os.environ.get(name)}}
            assert not changed, (module.name, changed)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TQDM_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
