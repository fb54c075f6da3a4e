"""What is timed: real requests of held-out users, the workloads over them, and the process that does only one.

Run as a module (``python -m delrec_lite.bench.workloads``) it is that process: it reads a job as JSON on stdin,
prints ``answered`` at its first answer and then one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from delrec_lite.data.types import Floats, Ints
from delrec_lite.runtime.held_out import HeldOut, held_out

WORKLOADS = {
    "cold": "one history, the first 10 of the catalogue",
    "rerank": "one history, its candidates in order",
    "step": "a known user with one more item, the first 10 of the catalogue",
    "batch": "many users at once, the first 10 of the catalogue for each",
    "load": "a new process, from its start to its first answer (files in the page cache)",
}
# The workloads of a bundle that ranks candidates alone.
CHOOSING = ("rerank", "load")
K = 10
SESSION = "bench"
# Before each sample: OpenMP's threads spin on for some 6 ms after an answer, on the cores that the next one needs.
SETTLE_S = 0.02


class Serving(Protocol):
    """The methods of a ``Recommender`` that are timed."""

    bundle: Any

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        candidates: Sequence[str] | None = None,
        *,
        session: str | None = None,
    ) -> Any:
        """See ``Recommender.recommend``."""

    def recommend_batch(self, histories: Sequence[Sequence[str]], k: int = 10) -> Any:
        """See ``Recommender.recommend_batch``."""

    def scores(self, histories: Sequence[Any]) -> Floats:
        """See ``Recommender.scores``."""

    def score_candidates(self, histories: Sequence[Any], candidates: Ints) -> Floats:
        """See ``Recommender.score_candidates``."""

    def tokens(self, history: Sequence[str], candidates: Sequence[str] | None = None) -> int:
        """See ``Recommender.tokens``."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True)
class Request:
    """What a user would send.

    Attributes:
        history: Titles, oldest first.
        candidates: Titles; None for the whole catalogue.
        in_session: The same session has asked before, with all but the newest item.
    """

    history: list[str]
    candidates: list[str] | None = None
    in_session: bool = False


@dataclass(frozen=True)
class Requests(HeldOut):
    """Requests of held-out users: their newest items, the item that came next, and candidates with that item.

    Attributes:
        titles: Of the catalogue.
    """

    titles: Sequence[str]

    def __len__(self) -> int:
        return len(self.split)

    def of(self, workload: str, n: int, among: bool = False) -> Request:
        """The n-th request of a workload, modulo their number; ``among``: with candidates in every workload."""
        user = n % len(self)
        history = [self.titles[i] for i in self.split.histories[user]]
        candidates = [self.titles[i] for i in self.candidates.items[user]]
        return Request(history, candidates if among or workload == "rerank" else None, workload == "step")


def requests_of(bundle: Any, dataset: Path | None = None) -> Requests:
    """Held-out requests with the bundle's titles; arguments and errors as of ``held_out``."""
    requests = held_out(bundle, dataset)
    return Requests(requests.split, requests.candidates, requests.source, bundle.items.titles)


class Timing(NamedTuple):
    """What one sample took.

    Attributes:
        ms: Milliseconds as the caller waits.
        phases: Those of each phase.
        tokens: Evaluated for it.
    """

    ms: float
    phases: dict[str, float]
    tokens: int


def ask(serving: Serving, request: Request) -> Timing:
    """One request; what its session holds already is not timed."""
    session = SESSION if request.in_session else None
    if request.in_session and len(request.history) > 1:
        serving.recommend(request.history[:-1], k=K, candidates=request.candidates, session=session)
    start = time.perf_counter()
    answer = serving.recommend(request.history, k=K, candidates=request.candidates, session=session)
    return Timing((time.perf_counter() - start) * 1e3, dict(answer.milliseconds), answer.tokens_computed)


def ask_many(serving: Serving, requests: Sequence[Request]) -> float:
    """Many users in one call: milliseconds of the call."""
    start = time.perf_counter()
    serving.recommend_batch([request.history for request in requests], k=K)
    return (time.perf_counter() - start) * 1e3


def work(job: dict[str, Any], load: Callable[[str, int], Serving], answered: Callable[[], None]) -> dict[str, float]:
    """Load a bundle and answer a job's requests: milliseconds of each phase, and this process's peak memory.

    Args:
        job: ``bundle``, ``threads``, ``together`` and ``requests`` (each ``history`` and ``candidates``).
        load: Opens the bundle.
        answered: Called at the first answer.
    """
    from delrec_lite.machine import peak_rss_bytes

    requests = [Request(**request) for request in job["requests"]]
    start = time.perf_counter()
    serving = load(job["bundle"], job["threads"])
    loaded = time.perf_counter()
    if job["together"]:
        ask_many(serving, requests)
    else:
        ask(serving, requests[0])
    phases = {"load": (loaded - start) * 1e3, "answer": (time.perf_counter() - loaded) * 1e3}
    answered()
    for request in [] if job["together"] else requests[1:]:
        ask(serving, request)
    serving.close()
    return {**phases, "peak_rss_bytes": peak_rss_bytes()}


def main() -> None:
    """The process of one job."""
    job = json.loads(sys.stdin.read())
    start = time.perf_counter()
    from delrec_lite.runtime.engines.factory import AUTO
    from delrec_lite.runtime.recommender import Recommender

    imported = (time.perf_counter() - start) * 1e3
    options = {"quant": job.get("quant"), "exact": job.get("exact", False)}
    load = partial(Recommender.load, engine=job.get("engine", AUTO), **options)
    facts = work(job, load, lambda: print("answered", flush=True))
    print(json.dumps({"import": imported, **facts}), flush=True)


if __name__ == "__main__":
    main()
