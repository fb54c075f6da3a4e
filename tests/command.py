"""`delrec-lite` as a process that runs to its end."""

import os
import subprocess
import sys
from pathlib import Path

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
