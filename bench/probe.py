"""Do a job in a new process, for the time that a start takes and the memory that one workload needs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from delrec_lite.errors import DelrecError

Probe = Callable[[dict[str, Any]], dict[str, float]]


def new_process(job: dict[str, Any]) -> dict[str, float]:
    """Do a job in a new process: milliseconds from its start to its first answer, its phases and peak memory.

    Raises:
        DelrecError: The process failed; gives its last message.
    """
    command = [sys.executable, "-m", "delrec_lite.bench.workloads"]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError):  # it died at once: its exit code and last line say why
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            answered = process.stdout.readline()
            total = (time.perf_counter() - start) * 1e3
            last = process.stdout.readline()
            errors = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0 or not answered:
        why = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise DelrecError(f"the new process for {job['bundle']} failed: {why}", "try `delrec-lite recommend`")
    facts: dict[str, float] = json.loads(last)
    inside = sum(facts[phase] for phase in ("import", "load", "answer"))
    return {"total": total, "start": max(0.0, total - inside), **facts}
