"""A worker of a run: a process that opens the bundle once and scores one part after another.

It reads its job, then names of parts, a line each, from standard input, and writes a line for what it did. It ends when
its input ends, as it does when its parent is killed.
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from delrec_lite.scoring.parts import report_of, score_part
from delrec_lite.scoring.scorer import Scorer


def work() -> None:
    """What the process does until its input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print is no answer

    def say(*message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    job: dict[str, Any] = json.loads(sys.stdin.readline())
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(names,), daemon=True).start()
    scorer = Scorer(**job["scorer"])
    source, target = Path(job["source"]), Path(job["target"])
    while True:
        name = names.get()
        try:
            score_part(scorer, source / name, target / name, lambda users: say("users", users))
            say("done", name)
        except Exception as error:  # the parent ends the run
            if job["debug"]:
                raise
            say("error", report_of(error))


def _listen(names: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        names.put(line.strip())
    os._exit(0)  # a part that is half scored has no file yet
