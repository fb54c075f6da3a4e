"""Time the workloads: every configuration in turn, round after round, so that a slow minute is shared by all."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.accuracy import measure_accuracy
from delrec_lite.bench.busy_processes import BusyProcesses
from delrec_lite.bench.configurations import Configuration, LoadBundle, opened, report_left_out, start_peer_stage
from delrec_lite.bench.peers import PeerServing
from delrec_lite.bench.plan import Plan, check_plan
from delrec_lite.bench.probe import Probe, new_process
from delrec_lite.bench.report import Report
from delrec_lite.bench.timer import Timer
from delrec_lite.bench.workloads import Requests, requests_of
from delrec_lite.console import QUIET, Console
from delrec_lite.errors import UsageError
from delrec_lite.provenance import commit, load_average, machine, now, versions
from delrec_lite.runtime.held_out import HISTORY


def bench(
    bundles: Sequence[Path],
    plan: Plan,
    dataset: Path | None = None,
    console: Console = QUIET,
    load: LoadBundle | None = None,
    probe: Probe | None = None,
) -> Report:
    """Time real requests through the runtime that serves.

    Warm-up is left out. Peak memory is that of a new process which loads the bundle and does only that workload.
    Accuracy is that of all requests, with the histories that are timed (newest ``HISTORY`` items), outside the timing.

    Args:
        bundles: Folders; all of the same catalogue.
        plan: What to time.
        dataset: A prepared data set whose test split asks; default: the requests in the first bundle.
        console: Shows the bar.
        load: Opens a bundle with a number of threads and, for a quantisation, ``quant``; default:
            ``Recommender.load``.
        probe: Does a job in a new process; default: ``new_process``.

    Raises:
        UsageError: Nothing to time, a number below 1, bundles of different catalogues, or more users than requests.
    """
    check_plan(bundles, plan)
    if load is None:
        from delrec_lite.runtime.recommender import Recommender

        load = partial(Recommender.load, engine=plan.engine)
    probe = probe or new_process
    load_before = load_average()
    with BusyProcesses(max(plan.busy)) as others, opened(bundles, plan, load, console) as configurations:
        requests = requests_of(configurations[0].serving.bundle, dataset)
        users = _batch_size(plan.users, len(requests))
        report_left_out(configurations, plan.workloads, console)
        if set(plan.workloads) - {"load"}:
            measure_accuracy(configurations, plan.workloads, requests, console)
        results = []
        for workload in plan.workloads:
            start_peer_stage(configurations, plan.workloads, workload)
            timer = Timer(workload, requests, users, probe, plan.engine)
            able = [c for c in configurations if workload in c.workloads]
            results += timer.run(able, plan.repeats, console, others, plan.busy)
        floors = _roofline(configurations, requests, max(plan.threads)) if plan.roofline else {}
    facts = {c.name: c.facts for c in configurations}
    source = {"source": requests.source, "requests": len(requests), "history": HISTORY}
    of_machine = machine() | {"llama_cpp": llama_cpp_features()}
    return Report(now(), commit(), of_machine, versions(), source, plan.repeats, load_before, facts, results, floors)


def llama_cpp_features() -> list[str]:
    """What the loaded llama.cpp is built for, such as ``AVX2``; empty where it is not loaded."""
    llama_cpp = sys.modules.get("llama_cpp")
    if llama_cpp is None:
        return []
    # ``CPU : SSE3 = 1 | AVX2 = 1 |``
    features: str = llama_cpp.llama_print_system_info().decode().rpartition(":")[2]
    pairs = (part.split("=") for part in features.split("|") if "=" in part)
    return [name.strip() for name, value in pairs if value.strip() != "0"]


def _batch_size(users: int, available: int) -> int:
    if users > available:
        raise UsageError(f"{users} users in a batch, {available} requests at hand", "give more with --dataset DIR")
    return users or min(64, available)


def _roofline(configurations: Sequence[Configuration], requests: Requests, threads: int) -> dict[str, Any]:
    from delrec_lite.bench.roofline import measure_ceilings, work_of

    ceilings = measure_ceilings(threads)
    floors = {}
    for c in configurations:
        if isinstance(c.serving, PeerServing) or not c.ranks_catalogue:
            continue
        tokens = float(np.mean([c.serving.tokens(requests.of("cold", n).history) for n in range(len(requests))]))
        if work := work_of(c.serving.bundle, tokens):
            floors[c.name] = {"work": asdict(work), "floor_ms": round(work.floor_ms(ceilings), 3)}
    return {"ceilings": asdict(ceilings), "bundles": floors}
