"""Time the workloads: every configuration in turn, round after round, so that a slow minute is shared by all."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.peers import PEERS, PeerServing
from delrec_lite.bench.report import Report, Result, summary
from delrec_lite.bench.workloads import (
    CHOOSING,
    WORKLOADS,
    K,
    Requests,
    Serving,
    Timing,
    ask,
    ask_many,
    requests_of,
)
from delrec_lite.console import QUIET, Console
from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.machine import cores_allowed
from delrec_lite.provenance import commit, load_average, machine, now, versions
from delrec_lite.runtime.engines.factory import AUTO
from delrec_lite.runtime.held_out import HISTORY

WARM_UP = 2
# Before each sample: OpenMP's threads spin on for some 6 ms after an answer, on the cores of whoever comes next.
SETTLE_S = 0.02
# Enough for the memory of a workload to reach its peak.
PROBE_REQUESTS = 3
PEER_WORKLOADS = ("cold", "rerank")
# Requests over which a peer's accuracy is taken: the slow ones need a second each.
PEER_REQUESTS = 32

Load = Callable[..., Serving]
Probe = Callable[[dict[str, Any]], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """What to time.

    Attributes:
        workloads: Names from ``WORKLOADS``.
        threads: Thread counts; every bundle runs with each.
        repeats: Timed samples of each workload and configuration; a sample is a request, a batch or a process.
        users: Users in a batch; 0 for 64, or all where there are fewer.
        peers: Names from ``delrec_lite.bench.peers.PEERS``, for the workloads that they can do.
        base: Where the peers find the base model: ``folder`` and ``gguf``.
        roofline: Measure the machine's ceilings too.
        engine: Name of an engine, or ``auto``; see ``open_engine``.
        quants: Quantisations out of each bundle, a configuration each; none: its first.
    """

    workloads: Sequence[str]
    threads: Sequence[int]
    repeats: int = 20
    users: int = 0
    peers: Sequence[str] = ()
    base: Mapping[str, str] = field(default_factory=dict)
    roofline: bool = False
    engine: str = AUTO
    quants: Sequence[str] = ()


@dataclass
class _Configuration:
    path: str
    name: str
    threads: int
    serving: Any  # Serving, or a PeerServing, which knows fewer workloads
    facts: dict[str, Any]
    quant: str | None = None
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it ranks the whole catalogue."""
        return isinstance(self.serving, PeerServing) or self.serving.bundle.prompt.format.ranks_catalogue

    @property
    def workloads(self) -> tuple[str, ...]:
        """What it can do."""
        if isinstance(self.serving, PeerServing):
            return PEER_WORKLOADS
        return tuple(WORKLOADS) if self.whole else CHOOSING


def bench(
    bundles: Sequence[Path],
    plan: Plan,
    dataset: Path | None = None,
    console: Console = QUIET,
    load: Load | None = None,
    probe: Probe | None = None,
) -> Report:
    """Time real requests through the runtime that serves.

    Warm-up is left out. Peak memory is that of a process of its own which loads the bundle and does only that
    workload. Accuracy is that of all requests at hand, asked as they are timed (newest ``HISTORY`` items), outside
    the timing.

    Args:
        bundles: Folders; all of the same catalogue.
        plan: What to time.
        dataset: A prepared data set whose test split asks; default: the requests in the first bundle.
        console: Shows the bar.
        load: Opens a bundle with a number of threads and, where one is asked for, ``quant``; default:
            ``Recommender.load``.
        probe: Does a job in a process of its own; default: ``new_process``.

    Raises:
        UsageError: Nothing to time, a number below 1, bundles of different catalogues, or more users than requests.
    """
    _check(bundles, plan)
    if load is None:
        from delrec_lite.runtime.recommender import Recommender

        load = partial(Recommender.load, engine=plan.engine)
    probe = probe or new_process
    load_before = load_average()
    with _opened(bundles, plan, load, console) as configurations:
        requests = requests_of(configurations[0].serving.bundle, dataset)
        users = _batch_size(plan.users, len(requests))
        _tell_left_out(configurations, plan.workloads, console)
        if set(plan.workloads) - {"load"}:
            _measure_accuracy(configurations, requests, console)
        results = []
        for workload in plan.workloads:
            timer = _Timer(workload, requests, users, probe, plan.engine)
            able = [c for c in configurations if workload in c.workloads]
            results += timer.run(able, plan.repeats, console)
        floors = _roofline(configurations, requests, max(plan.threads)) if plan.roofline else {}
    facts = {c.name: c.facts for c in configurations}
    asked = {"source": requests.source, "requests": len(requests), "history": HISTORY}
    return Report(now(), commit(), machine(), versions(), asked, plan.repeats, load_before, facts, results, floors)


def new_process(job: dict[str, Any]) -> dict[str, float]:
    """Do a job in a new process: milliseconds from its start to its first answer, its phases and peak memory.

    Raises:
        DelrecError: The process failed; says how.
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
            with suppress(BrokenPipeError):  # it died at once: its exit code and last words say why
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            answered = process.stdout.readline()
            total = (time.perf_counter() - start) * 1e3
            last = process.stdout.readline()
            said = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0 or not answered:
        why = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise DelrecError(f"the process of its own for {job['bundle']} failed: {why}", "try `delrec-lite recommend`")
    facts: dict[str, float] = json.loads(last)
    inside = sum(facts[phase] for phase in ("import", "load", "answer"))
    return {"total": total, "start": max(0.0, total - inside), **facts}


class _Timer:
    def __init__(self, workload: str, requests: Requests, users: int, probe: Probe, engine: str) -> None:
        self.workload, self.requests, self.users, self.probe = workload, requests, users, probe
        self.engine = engine
        self.together = [requests.of("batch", n) for n in range(users)]

    def run(self, configurations: Sequence[_Configuration], repeats: int, console: Console) -> list[Result]:
        """Warm up, then one sample of each configuration in turn, ``repeats`` times; then their memory."""
        samples: list[list[Timing]] = [[] for _ in configurations]
        warm = 1 if self.workload in {"load", "batch"} else WARM_UP
        with console.progress(self.workload, (warm + repeats) * len(configurations)) as tick:
            for n in range(-warm, repeats):
                for which, configuration in enumerate(configurations):
                    sample = self._sample(configuration, n)
                    if n >= 0:
                        samples[which].append(sample)
                    tick(1, configuration.name)
        return [self._result(c, s) for c, s in zip(configurations, samples, strict=True)]

    def _sample(self, configuration: _Configuration, n: int) -> Timing:
        time.sleep(SETTLE_S)
        serving = configuration.serving
        if self.workload == "batch":
            tokens = sum(serving.tokens(request.history) for request in self.together)
            return Timing(ask_many(serving, self.together), {}, tokens)
        if self.workload == "load":
            facts = self.probe(self._job(configuration, 1, n))
            request = self.requests.of("load", n, not configuration.whole)
            tokens = len(serving.bundle.prompt.prefix) + serving.tokens(request.history, request.candidates)
            return Timing(facts["total"], {k: v for k, v in facts.items() if k != "total"}, tokens)
        return ask(configuration.serving, self.requests.of(self.workload, n))

    def _job(self, configuration: _Configuration, count: int, first: int = 0) -> dict[str, Any]:
        batch = self.workload == "batch"
        among = not configuration.whole
        asked = self.together if batch else [self.requests.of(self.workload, first + n, among) for n in range(count)]
        return {
            "bundle": configuration.path,
            "threads": configuration.threads,
            "engine": self.engine,
            "quant": configuration.quant,
            "together": batch,
            "requests": [asdict(request) for request in asked],
        }

    def _result(self, configuration: _Configuration, samples: Sequence[Timing]) -> Result:
        times = [sample.ms for sample in samples]
        tokens = round(float(np.mean([sample.tokens for sample in samples])), 1)
        if isinstance(configuration.serving, PeerServing):
            return self._peer_result(configuration, configuration.serving, times, tokens)
        phases = {name: float(np.mean([sample.phases[name] for sample in samples])) for name in samples[0].phases}
        if self.workload == "load":
            memory = int(phases.pop("peak_rss_bytes"))
        else:
            memory = int(self.probe(self._job(configuration, PROBE_REQUESTS))["peak_rss_bytes"])
        users = self.users if self.workload == "batch" else 1
        return Result(
            workload=self.workload,
            bundle=configuration.name,
            threads=configuration.threads,
            users=users,
            tokens=tokens,
            ms=summary(times),
            per_second=round(1e3 * users * len(times) / sum(times), 2),
            phases={name: round(ms, 3) for name, ms in phases.items()},
            peak_rss_bytes=memory,
            artifact_bytes=configuration.facts["bytes"],
            accuracy={} if self.workload == "load" else configuration.accuracy[self.workload],
            samples_ms=[round(ms, 4) for ms in times],
        )

    def _peer_result(
        self, configuration: _Configuration, peer: PeerServing, times: list[float], tokens: float
    ) -> Result:
        return Result(
            workload=self.workload,
            bundle=configuration.name,
            threads=configuration.threads,
            users=1,
            tokens=tokens,
            ms=summary(times),
            per_second=round(1e3 * len(times) / sum(times), 2),
            phases={},
            peak_rss_bytes=peer.peak_rss_bytes(),
            artifact_bytes=configuration.facts["bytes"],
            accuracy=configuration.accuracy[self.workload],
            samples_ms=[round(ms, 4) for ms in times],
        )


def _check(bundles: Sequence[Path], plan: Plan) -> None:
    if not bundles:
        raise UsageError("no bundle to time", "give one or more bundle folders")
    if plan.repeats < 1 or not plan.threads or min(plan.threads) < 1 or plan.users < 0:
        raise UsageError("repeats, threads and users are at least 1", "try -r 20 --threads 1,2")
    unknown = set(plan.workloads) - set(WORKLOADS)
    if unknown or not plan.workloads:
        raise UsageError(f"no workload is called {', '.join(sorted(unknown))!r}", f"one of {', '.join(WORKLOADS)}")


def _tell_left_out(configurations: Sequence[_Configuration], workloads: Sequence[str], console: Console) -> None:
    for c in configurations:
        able = [workload for workload in workloads if workload in c.workloads]
        if not c.whole and not able:
            raise UsageError(f"{c.name} ranks candidates alone", f"time {' or '.join(CHOOSING)} of it")
        if not c.whole and len(able) < len(workloads):
            console.say(f"  {c.name} ranks candidates alone: {', '.join(able)} of it")


def _batch_size(asked: int, available: int) -> int:
    if asked > available:
        raise UsageError(f"{asked} users in a batch, {available} requests at hand", "give more with --dataset DIR")
    return asked or min(64, available)


@contextmanager
def _opened(bundles: Sequence[Path], plan: Plan, load: Load, console: Console) -> Iterator[list[_Configuration]]:
    with ExitStack() as stack:
        made: list[_Configuration] = []
        for path in dict.fromkeys(bundles):
            quants: list[str | None] = [*dict.fromkeys(plan.quants)] or [None]
            for quant, count in product(quants, dict.fromkeys(plan.threads)):
                serving = load(str(path), count) if quant is None else load(str(path), count, quant=quant)
                stack.callback(serving.close)
                bundle = serving.bundle
                if made and list(bundle.items.ids) != list(made[0].serving.bundle.items.ids):
                    raise UsageError(f"{path} has another catalogue than {made[0].path}", "time them in separate runs")
                name = f"{bundle.name} {bundle.manifest['model'].get('quant', '')}".strip()
                if any(c.name == name and c.path != str(path) for c in made):
                    name = " ".join([str(path), *([quant] if quant else [])])
                made.append(_Configuration(str(path), name, count, serving, facts_of(bundle), quant))
        for name in plan.peers:
            console.say(f"  {name}: {PEERS[name]}")
            counts = list(dict.fromkeys([1, cores_allowed()]))
            peer = PeerServing(name, made[0].serving.bundle, plan.base, counts)
            stack.callback(peer.close)
            made.append(_Configuration("", name, peer.threads, peer, {"bytes": peer.bytes, "peer": PEERS[name]}))
        yield made


def _measure_accuracy(configurations: Sequence[_Configuration], requests: Requests, console: Console) -> None:
    from delrec_lite.evaluation.metrics import per_user
    from delrec_lite.evaluation.protocol import rank_all, rank_chosen

    measured: dict[tuple[str, str | None], dict[str, dict[str, Any]]] = {}
    for c in configurations:
        if isinstance(c.serving, PeerServing):
            c.accuracy = _peer_accuracy(c.serving, requests, console)
            continue
        if (c.path, c.quant) not in measured:
            rank, scorer = (rank_all, c.serving.scores) if c.whole else (rank_chosen, c.serving.score_candidates)
            ranks = rank(scorer, requests.split, requests.candidates, console=console, label="accuracy")
            measured[c.path, c.quant] = {
                workload: {
                    **_protocol(protocol, requests),
                    "requests": len(values),
                    **{m: round(float(per_user(values, m).mean()), 4) for m in ("HR@1", "NDCG@10")},
                }
                for workload, protocol, values in (
                    ("cold", "full", ranks.full),
                    ("step", "full", ranks.full),
                    ("batch", "full", ranks.full),
                    ("rerank", "sampled", ranks.sampled),
                )
                if workload in c.workloads
            }
        c.accuracy = measured[c.path, c.quant]


def _roofline(configurations: Sequence[_Configuration], requests: Requests, threads: int) -> dict[str, Any]:
    from delrec_lite.bench.roofline import measure, work_of

    ceilings = measure(threads)
    found = {}
    for c in configurations:
        if isinstance(c.serving, PeerServing) or not c.whole:
            continue
        tokens = float(np.mean([c.serving.tokens(requests.of("cold", n).history) for n in range(len(requests))]))
        if work := work_of(c.serving.bundle, tokens):
            found[c.name] = {"work": asdict(work), "floor_ms": round(work.floor_ms(ceilings), 3)}
    return {"ceilings": asdict(ceilings), "bundles": found}


def _protocol(name: str, requests: Requests) -> dict[str, Any]:
    """What a rank was among: the catalogue, or so many candidates."""
    return {"protocol": name, **({"candidates": requests.candidates.items.shape[1]} if name == "sampled" else {})}


def _peer_accuracy(peer: PeerServing, requests: Requests, console: Console) -> dict[str, dict[str, Any]]:
    """From the titles that a peer answers with; a target that is not among them is never found."""
    from delrec_lite.evaluation.metrics import per_user

    never = 10**6
    found = {}
    for workload in PEER_WORKLOADS:
        ranks = []
        count = min(PEER_REQUESTS, len(requests))
        with console.progress(f"accuracy, {workload}", count) as tick:
            for n in range(count):
                request = requests.of(workload, n)
                answer = peer.recommend(request.history, K, request.candidates).items
                target = requests.titles[requests.split.targets[n]]
                ranks.append(answer.index(target) + 1 if target in answer else never)
                tick(1, peer.name)
        values = np.array(ranks)
        found[workload] = {
            **_protocol("full" if workload == "cold" else "sampled", requests),
            "requests": len(values),
            **{m: round(float(per_user(values, m).mean()), 4) for m in ("HR@1", "NDCG@10")},
        }
    return found


def facts_of(bundle: Any) -> dict[str, Any]:
    """What a figure has to say of the bundle that it was measured on."""
    model, provenance = bundle.manifest["model"], bundle.manifest.get("provenance", {})
    files = bundle.manifest["files"]
    return {
        "folder": str(bundle.folder),
        "quant": model.get("quant"),
        "base": model.get("base"),
        "bytes": sum(int(facts["bytes"]) for facts in files.values()),
        "model_bytes": int(files[model["file"]]["bytes"]),
        "model_sha256": files[model["file"]].get("sha256"),
        "created": bundle.manifest.get("created"),
        "commit": provenance.get("commit"),
        "delrec_lite": provenance.get("delrec_lite"),
    }
