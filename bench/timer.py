"""Time one workload over all configurations in turn: milliseconds, phases and memory."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from delrec_lite.bench.busy_processes import BusyProcesses
from delrec_lite.bench.configurations import Configuration
from delrec_lite.bench.peers import BudgetSpentError, PeerServing
from delrec_lite.bench.probe import Probe
from delrec_lite.bench.report import Result, latency_summary
from delrec_lite.bench.workloads import SETTLE_S, Requests, Timing, ask, ask_many
from delrec_lite.console import Console

WARM_UP = 2
# Enough for the memory of a workload to reach its peak.
PROBE_REQUESTS = 3


class Timer:
    """Times one workload.

    Args:
        workload: Its name.
        requests: Held-out requests.
        users: In a batch.
        probe: Does a job in a new process.
        engine: Name of an engine.
    """

    def __init__(self, workload: str, requests: Requests, users: int, probe: Probe, engine: str) -> None:
        self.workload, self.requests, self.users, self.probe = workload, requests, users, probe
        self.engine = engine
        self.together = [requests.of("batch", n) for n in range(users)]

    def run(
        self,
        configurations: Sequence[Configuration],
        repeats: int,
        console: Console,
        others: BusyProcesses,
        busy: Sequence[int] = (0,),
    ) -> list[Result]:
        """Warm up, then one sample of each configuration in turn, ``repeats`` times; then their memory.

        Args:
            configurations: Able to do the workload.
            repeats: Samples of each.
            console: Shows the bar.
            others: The busy processes, started.
            busy: How many of them run; each round takes every number in turn.
        """
        numbers = list(dict.fromkeys(busy))
        samples: dict[tuple[int, int], list[Timing]] = {key: [] for key in product(range(len(configurations)), numbers)}
        warm = 1 if self.workload in {"load", "batch"} else WARM_UP
        with console.progress(self.workload, (warm + repeats) * len(samples)) as tick:
            for n in range(-warm, repeats):
                for number in numbers:
                    others.run(number)
                    for which, configuration in enumerate(configurations):
                        with suppress(BudgetSpentError):  # the row says so
                            sample = self._sample(configuration, n)
                            if n >= 0:
                                samples[which, number].append(sample)
                        tick(1, configuration.name)
        others.run(0)
        memory = [self._memory(c, samples[which, numbers[0]]) for which, c in enumerate(configurations)]
        return [
            self._result(configurations[which], timings, memory[which], number, repeats)
            for (which, number), timings in samples.items()
        ]

    def _sample(self, configuration: Configuration, n: int) -> Timing:
        time.sleep(SETTLE_S)
        serving = configuration.serving
        if self.workload == "batch":
            tokens = sum(serving.tokens(request.history) for request in self.together)
            return Timing(ask_many(serving, self.together), {}, tokens)
        if self.workload == "load":
            facts = self.probe(self._job(configuration, 1, n))
            request = self.requests.of("load", n, not configuration.ranks_catalogue)
            tokens = len(serving.bundle.prompt.prefix) + serving.tokens(request.history, request.candidates)
            return Timing(facts["total"], {k: v for k, v in facts.items() if k != "total"}, tokens)
        return ask(configuration.serving, self.requests.of(self.workload, n))

    def _job(self, configuration: Configuration, count: int, first: int = 0) -> dict[str, Any]:
        batch = self.workload == "batch"
        among = not configuration.ranks_catalogue
        requests = [self.requests.of(self.workload, first + n, among) for n in range(count)]
        return {
            "bundle": configuration.path,
            "threads": configuration.threads,
            "engine": self.engine,
            "quant": configuration.quant,
            "exact": configuration.exact,
            "together": batch,
            "requests": [asdict(request) for request in (self.together if batch else requests)],
        }

    def _memory(self, configuration: Configuration, samples: Sequence[Timing]) -> int:
        """Peak resident bytes of a process that does only this workload."""
        if isinstance(configuration.serving, PeerServing):
            return configuration.serving.peak_rss_bytes
        if self.workload == "load":
            return int(np.mean([sample.phases["peak_rss_bytes"] for sample in samples]))
        return int(self.probe(self._job(configuration, PROBE_REQUESTS))["peak_rss_bytes"])

    def _result(
        self, configuration: Configuration, samples: Sequence[Timing], memory: int, busy: int, repeats: int
    ) -> Result:
        times = [sample.ms for sample in samples]
        peer = isinstance(configuration.serving, PeerServing)
        names = [] if peer else [name for name in samples[0].phases if name != "peak_rss_bytes"]
        users = self.users if self.workload == "batch" else 1
        return Result(
            workload=self.workload,
            bundle=configuration.name,
            threads=configuration.threads,
            users=users,
            tokens=round(float(np.mean([sample.tokens for sample in samples])), 1) if samples else 0.0,
            ms=latency_summary(times) if times else {},
            per_second=round(1e3 * users * len(times) / sum(times), 2) if times else 0.0,
            phases={name: round(float(np.mean([sample.phases[name] for sample in samples])), 3) for name in names},
            peak_rss_bytes=memory,
            artifact_bytes=configuration.facts["bytes"],
            accuracy={} if self.workload == "load" else configuration.accuracy[self.workload],
            samples_ms=[round(ms, 4) for ms in times],
            busy_processes=busy,
            unfinished=self._unfinished(configuration, len(times), repeats),
        )

    def _unfinished(self, configuration: Configuration, samples: int, repeats: int) -> str:
        """What a peer had no time for."""
        if not isinstance(configuration.serving, PeerServing):
            return ""
        missing = [f"{samples} of {repeats} samples"] if samples < repeats else []
        missing += [part for part in [configuration.unfinished.get(self.workload)] if part]
        return f"{', '.join(missing)} within {configuration.serving.seconds:.0f} s" if missing else ""
