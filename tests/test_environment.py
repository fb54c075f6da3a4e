"""Environment switches have one meaning everywhere, and no import changes the environment."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from delrec_lite.environment import flag

ROOT = Path(__file__).parents[1]
FOLDERS = ("delrec_lite", "export", "bench")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
SWITCHES = ("DELREC_DEBUG", "DELREC_OFFLINE")
OFF, ON = ("", "0", "false", "False", "NO", "off", " 0 "), ("1", "true", "yes", "ON", "2")


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
    text = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    switches = {name for source in text.values() for name in re.findall(r'flag\("(DELREC_\w+)"\)', source)}
    assert switches == set(SWITCHES)
    read = {name for source in text.values() for name in re.findall(r'environ[^\n]*"(DELREC_\w+)"', source)}
    assert read == {"DELREC_CACHE"}, "a folder, not a switch"


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
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            changed = {{name for name in set(before) | set(os.environ) if before.get(name) != os.environ.get(name)}}
            assert not changed, (module.name, changed)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TQDM_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
