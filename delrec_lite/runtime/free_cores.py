"""How many of the cores that this process may use are left free by other programs; read from Linux's counters."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from delrec_lite.machine import cores_allowed

# Between two readings: the counters go in steps of 10 ms.
PERIOD_SECONDS = 0.1
_STAT = Path("/proc/stat")
# Columns of a processor's line that are spent at work: user, nice, system, and (behind idle and waiting) interrupts
# and what a hypervisor gave to others. Guests' time is part of the user's.
_WORK = (1, 2, 3, 6, 7, 8)


class FreeCores:
    """Follows the load of the machine.

    llama.cpp waits for its slowest thread after every product of matrices, so one that shares its core with another
    program makes all of them slow: on two cores of which one is busy, a new user took 136 ms with two threads and 47
    with as many as there are free cores (bench/results/busy.json).

    Args:
        stat: Linux's file with the time that each processor was at work.
        clock: Seconds.
        own_seconds: Processor time of this process.
    """

    def __init__(
        self,
        stat: Path = _STAT,
        clock: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self._stat, self._clock, self._own_seconds = stat, clock, own_seconds
        self._cores = self._free = cores_allowed()
        processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset[int]()
        self._names = {f"cpu{number}" for number in processors}
        self._processors = max(len(processors), self._cores)
        self._reading = self._read()

    def count(self) -> int:
        """Cores that others left free since the last reading, at least 1; all allowed where none can be read."""
        before, own_before, work_before = self._reading
        if self._clock() - before >= PERIOD_SECONDS:
            self._reading = now, own, work = self._read()
            others = ((work - work_before) - (own - own_before)) / (now - before)
            # Within the processors of this process's affinity, of which a quota may allow fewer.
            self._free = min(self._cores, max(1, self._processors - max(0, int(others + 0.5))))
        return self._free

    def _read(self) -> tuple[float, float, float]:
        """Now, this process's seconds at work, and those of the processors that it may use."""
        try:
            lines = [line.split() for line in self._stat.read_text(encoding="ascii").splitlines()]
        except OSError:
            lines = []
        ticks = sum(int(line[n]) for line in lines if line and line[0] in self._names for n in _WORK if n < len(line))
        return self._clock(), self._own_seconds(), ticks / _ticks_per_second()


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
