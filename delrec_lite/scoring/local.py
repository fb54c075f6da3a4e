"""Scores the parts of a run by processes of this machine, each with one thread and a bundle of its own."""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.environment import flag
from delrec_lite.errors import DelrecError
from delrec_lite.scoring.parts import raise_reported

# How often a part is tried whose worker is killed.
MOST_TRIALS = 3
CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from delrec_lite.scoring.worker import work; work()"


class Worker:
    """A process that scores parts, and a thread that reads what it says.

    Args:
        job: See ``worker.work``.
        heard: Gets ``(worker, message)`` for each line, and ``(worker, None)`` when the process has ended.
    """

    def __init__(self, job: dict[str, Any], heard: "queue.SimpleQueue[tuple[Worker, Any]]") -> None:
        self.part = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if job["debug"] else subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C is the parent's; it ends the workers
        )
        self._send(json.dumps(job))
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def score(self, part: str) -> None:
        """Begin with a part."""
        self.part = part
        self._send(part)

    def end(self) -> None:
        """End the process, in the middle of a part too."""
        self.process.kill()
        self.process.wait()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it was killed: its end is heard

    def _listen(self, heard: "queue.SimpleQueue[tuple[Worker, Any]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                heard.put((self, json.loads(line)))
        self.process.wait()
        heard.put((self, None))


def score_local(
    scorer: dict[str, Any], source: Path, target: Path, parts: Sequence[str], workers: int, tick: Callable[[int], None]
) -> None:
    """Score parts; a part whose worker is killed is scored again by a new one.

    Args:
        scorer: Arguments of ``Scorer``.
        source: Folder of the parts' users.
        target: Folder of their recommendations.
        parts: Names of the files in both.
        workers: How many processes.
        tick: Called with the number of users that were scored since the last call; below 0 for those that are scored
            again.

    Raises:
        DelrecError: What a worker reports; or one is killed too often at the same part.
    """
    job = {"scorer": scorer, "source": str(source), "target": str(target), "debug": flag("DELREC_DEBUG")}
    waiting, killed, ticked = deque(parts), Counter[str](), Counter[str]()
    heard: queue.SimpleQueue[tuple[Worker, Any]] = queue.SimpleQueue()
    running: set[Worker] = set()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.add(worker := Worker(job, heard))
                worker.score(waiting.popleft())
            worker, message = heard.get()
            if message is None:
                running.discard(worker)
                if worker.part:
                    _check_death(worker, killed)
                    tick(-ticked.pop(worker.part, 0))
                    waiting.appendleft(worker.part)
            elif message[0] == "users":
                ticked[worker.part] += message[1]
                tick(message[1])
            elif message[0] == "error":
                raise_reported(message[1])
            elif waiting:
                worker.score(waiting.popleft())
            else:
                worker.part = ""
                worker.end()
    finally:
        for worker in running:
            worker.end()


def _check_death(worker: Worker, killed: "Counter[str]") -> None:
    """Count the end of a worker that had work.

    Raises:
        DelrecError: It is not the first at this part.
    """
    killed[worker.part] += 1
    if killed[worker.part] < MOST_TRIALS:
        return
    code = worker.process.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise DelrecError(
        f"a worker {how} at {worker.part}, as {MOST_TRIALS - 1} before it",
        "if memory is short, take fewer --workers; the same command goes on behind the finished parts",
    )
