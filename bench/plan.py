"""What a run of the bench times: workloads, threads, repeats, quantisations and peers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from delrec_lite.bench.peers import SECONDS
from delrec_lite.bench.workloads import WORKLOADS
from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.runtime.engines.factory import AUTO


@dataclass(frozen=True)
class Plan:
    """What to time.

    Attributes:
        workloads: Names from ``WORKLOADS``.
        threads: Thread counts; every bundle runs with each.
        repeats: Timed samples of each workload and configuration; a sample is a request, a batch or a process.
        users: Users in a batch; 0 for 64, or all where there are fewer.
        peers: Names from ``delrec_lite.bench.peers.PEERS``, for the workloads that they can do.
        exact: Score every item, also in bundles with an item index; False: time these in both ways.
        peer_seconds: That each peer may compute, see ``PeerServing``.
        base: Where the peers find the base model: ``folder`` and ``gguf``.
        roofline: Measure the machine's ceilings too.
        engine: Name of an engine, or ``auto``; see ``open_engine``.
        quants: Quantisations out of each bundle, a configuration each; none: its first.
        busy: Numbers of busy processes beside what is timed; everything is timed beside each.
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
    busy: Sequence[int] = (0,)
    peer_seconds: float = SECONDS
    exact: bool = False


def check_plan(bundles: Sequence[Path], plan: Plan) -> None:
    """Refuse a plan that times nothing.

    Raises:
        UsageError: No bundle, no workload or an unknown one, or a number below 1.
    """
    if not bundles:
        raise UsageError("no bundle to time", "give one or more bundle folders")
    if plan.repeats < 1 or not plan.threads or min(plan.threads) < 1 or plan.users < 0:
        raise UsageError("repeats, threads and users are at least 1", "try -r 20 --threads 1,2")
    if not plan.busy or min(plan.busy) < 0:
        raise UsageError("the number of busy processes is at least 0", "try --busy 0,1,2")
    unknown = set(plan.workloads) - set(WORKLOADS)
    if unknown or not plan.workloads:
        names = ", ".join(sorted(unknown))
        raise UsageError(f"no workload is called {names!r}", did_you_mean(names, WORKLOADS))
