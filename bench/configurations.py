"""The configurations that take turns: each bundle in each quantisation and thread count, then the peers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from delrec_lite.bench.peers import PeerServing, description
from delrec_lite.bench.plan import Plan
from delrec_lite.bench.workloads import CHOOSING, WORKLOADS, Serving
from delrec_lite.console import Console
from delrec_lite.errors import UsageError
from delrec_lite.machine import cores_allowed
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS, bundle_files

PEER_WORKLOADS = ("cold", "rerank")

LoadBundle = Callable[..., Serving]


@dataclass
class Configuration:
    """A bundle or a peer as it is timed.

    Attributes:
        path: The bundle's folder; empty for a peer.
        name: In the report.
        threads: Of the engine.
        serving: A ``Serving``, or a ``PeerServing``, which has fewer workloads.
        facts: Of the bundle, see ``facts_of``.
        quant: Of the model in the bundle; None: its first.
        exact: Whether every item is scored, also where the bundle has an item index.
        accuracy: By workload, once it is measured.
        unfinished: By workload, what a peer had no time for; empty text: nothing.
    """

    path: str
    name: str
    threads: int
    serving: Any
    facts: dict[str, Any]
    quant: str | None = None
    exact: bool = False
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)

    @property
    def ranks_catalogue(self) -> bool:
        """Whether it ranks the whole catalogue, or candidates alone."""
        return isinstance(self.serving, PeerServing) or self.serving.bundle.prompt.format.ranks_catalogue

    @property
    def workloads(self) -> tuple[str, ...]:
        """Those that it can do."""
        if isinstance(self.serving, PeerServing):
            return PEER_WORKLOADS
        return tuple(WORKLOADS) if self.ranks_catalogue else CHOOSING


@contextmanager
def opened(bundles: Sequence[Path], plan: Plan, load: LoadBundle, console: Console) -> Iterator[list[Configuration]]:
    """Every bundle in every quantisation and thread count of a plan, then its peers; closed at the end.

    One with an item index is timed without and with it.

    Raises:
        UsageError: Bundles of different catalogues, or a peer that needs a file that is not there.
    """
    with ExitStack() as stack:
        configurations: list[Configuration] = []
        for path in dict.fromkeys(bundles):
            quants: list[str | None] = [*dict.fromkeys(plan.quants)] or [None]
            ways = [True] if plan.exact else [True, False] if _has_index(path) else [False]
            for quant, count, exact in product(quants, dict.fromkeys(plan.threads), ways):
                options: dict[str, Any] = {**({"quant": quant} if quant else {}), **({"exact": True} if exact else {})}
                serving = load(str(path), count, **options)
                stack.callback(serving.close)
                bundle = serving.bundle
                if configurations and list(bundle.items.ids) != list(configurations[0].serving.bundle.items.ids):
                    raise UsageError(
                        f"{path} has another catalogue than {configurations[0].path}", "time them in separate runs"
                    )
                name = f"{bundle.name} {bundle.manifest['model'].get('quant', '')}".strip()
                if any(c.name == name and c.path != str(path) for c in configurations):
                    name = " ".join([str(path), *([quant] if quant else [])])
                name += " exact" if exact and len(ways) > 1 else ""
                facts = {key: fact for key, fact in facts_of(bundle).items() if key != INDEX_FACTS or not exact}
                configurations.append(Configuration(str(path), name, count, serving, facts, quant, exact))
        counts = list(dict.fromkeys([1, cores_allowed()]))
        with console.progress("start of peers", len(plan.peers)) as tick:
            for name in plan.peers:
                tick(0, name)
                peer = PeerServing(name, configurations[0].serving.bundle, plan.base, counts, plan.peer_seconds)
                stack.callback(peer.close)
                facts = {"bytes": peer.bytes, "peer": description(name)}
                configurations.append(Configuration("", name, peer.threads, peer, facts))
                tick(1)
        yield configurations


def _has_index(path: Path) -> bool:
    """Whether there is a bundle with an item index; what is no bundle is refused where it is loaded."""
    return INDEX in (bundle_files(path) or ())


def report_left_out(configurations: Sequence[Configuration], workloads: Sequence[str], console: Console) -> None:
    """Say which workloads a bundle that ranks candidates alone cannot do.

    Raises:
        UsageError: It can do none of them.
    """
    for c in configurations:
        able = [workload for workload in workloads if workload in c.workloads]
        if not c.ranks_catalogue and not able:
            raise UsageError(f"{c.name} ranks candidates alone", f"time {' or '.join(CHOOSING)} of it")
        if not c.ranks_catalogue and len(able) < len(workloads):
            console.say(f"  {c.name} ranks candidates alone: {', '.join(able)} of it")


def start_peer_stage(configurations: Sequence[Configuration], workloads: Sequence[str], workload: str) -> None:
    """Give each peer its share of its time for a workload that is timed."""
    planned = [name for name in workloads if name in PEER_WORKLOADS]
    for c in configurations:
        if workload in planned and isinstance(c.serving, PeerServing):
            c.serving.start_stage(len(planned) - planned.index(workload))


def facts_of(bundle: Any) -> dict[str, Any]:
    """What a figure has to say of the bundle that it was measured on."""
    model, provenance = bundle.manifest["model"], bundle.manifest.get("provenance", {})
    files = bundle.manifest["files"]
    index = {INDEX_FACTS: model[INDEX_FACTS]} if INDEX_FACTS in model else {}
    return {
        **index,
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
