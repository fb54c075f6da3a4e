"""Processes that keep cores busy beside what is timed, as other programs on a laptop do."""

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import TracebackType

from delrec_lite.errors import DelrecError

_CHILD = "from delrec_lite.bench.busy_processes import spin; spin()"


class BusyProcesses:
    """Processes, of which as many compute without a pause as is asked for; the others sleep.

    They end with the context, and also when this process is killed: a child ends where its standard input does.

    Args:
        most: How many are started.
    """

    def __init__(self, most: int) -> None:
        self.most, self.running = most, 0
        self._children: list[subprocess.Popen[str]] = []

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [child.pid for child in self._children if child.poll() is None]

    def __enter__(self) -> "BusyProcesses":
        """Start them, all asleep."""
        command = [sys.executable, "-c", _CHILD]
        try:
            for _ in range(self.most):
                pipe = subprocess.PIPE
                self._children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            for child in self._children:
                self._send(child, "0")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self._end()

    def run(self, count: int) -> None:
        """Let ``count`` of them compute, from now on; returns when they do."""
        for index, child in enumerate(self._children):
            busy = index < count
            if busy != (index < self.running):
                self._send(child, str(int(busy)))
        self.running = count

    @staticmethod
    def _send(child: "subprocess.Popen[str]", order: str) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(order + "\n")
        child.stdin.flush()
        if not child.stdout.readline():
            raise DelrecError("a busy process ended before its time", "free some memory and try again")

    def _end(self) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def spin() -> None:
    """A child: computes after a line ``1``, sleeps after ``0``, ends where standard input does; confirms each line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this process
    busy, ended = threading.Event(), False

    def read_orders() -> None:
        nonlocal ended
        for line in sys.stdin:
            if line.strip() == "1":
                busy.set()
            else:
                busy.clear()
            print(flush=True)
        ended = True
        busy.set()

    threading.Thread(target=read_orders, daemon=True).start()
    while not ended:
        busy.wait()
        while busy.is_set() and not ended:
            sum(range(1000))
