"""`delrec-lite` as a process that runs to its end, and as a call in this process."""

import os
import subprocess
import sys
from pathlib import Path

import typer

from delrec_lite.cli import app as cli

PROGRAM = Path(sys.executable).parent / "delrec-lite"


def run(*arguments, preexec=None, cwd=None, **environment):
    """The finished process with its exit code and text; ``preexec`` is called in it before it starts."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment},
        preexec_fn=preexec,
        cwd=cwd,
    )


def options_of(command, verb="serve"):
    """Names of the options in a command, such as ``--port``; each must be one of the verb."""
    named = [word.partition("=")[0] for word in command if word.startswith("--")]
    inner = typer.main.get_command(cli.app).commands[verb]
    known = {name for parameter in inner.params for name in parameter.opts + parameter.secondary_opts}
    assert set(named) <= known, set(named) - known
    return named


def call(*words):
    """The exit code of a command in this process."""
    before, sys.argv = sys.argv, ["delrec-lite", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0
