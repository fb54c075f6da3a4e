"""Compiles llama.cpp on all allowed cores, with share done and time left: `compile.py CONSTRAINTS`."""

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from delrec_lite.console import Console
from delrec_lite.machine import cores_allowed

LOG = Path("build/llama-cpp.log")
# Of ninja, [12/140], and of make, [ 12%].
STEP = re.compile(r"^\s*\[\s*(\d+)(?:/(\d+)\]|%\])")


def steps(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Finished steps and their number, for each line of the build's output that has them."""
    for line in lines:
        if match := STEP.match(line):
            yield int(match[1]), int(match[2] or 100)


def install(command: list[str], console: Console) -> int:
    """Run pip, with its output in ``LOG``; returns its exit code."""
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(cores_allowed())
    console.say(f"  llama.cpp: compiled once, on {cores} cores; pip's output is in {LOG}")
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": cores}
    LOG.parent.mkdir(exist_ok=True)
    pipe = subprocess.PIPE
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, errors="replace", env=environment) as pip,
        ExitStack() as stack,
    ):
        assert pip.stdout is not None
        tick, last = None, 0
        for done, total in steps(_copied(pip.stdout, log)):
            tick = tick or stack.enter_context(console.progress("llama.cpp", total))
            tick(done - last)
            last = done
    return pip.returncode


def _copied(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    for line in lines:
        log.write(line)
        yield line


def main() -> int:
    """Install the extra `gguf`."""
    constraints, console = sys.argv[1], Console()
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--verbose",
        "--constraint",
        constraints,
        "--editable",
        ".[gguf]",
    ]
    code = install(command, console)
    if code:
        with LOG.open(encoding="utf-8") as log:
            console.say("".join(deque(log, 20)))
        console.say("llama.cpp was not compiled. `make setup COMPILER=no` installs without it: bundles are ONNX then")
    return code


if __name__ == "__main__":
    sys.exit(main())
