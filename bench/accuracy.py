"""The accuracy of every configuration, over all requests, outside the timing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from delrec_lite.bench.configurations import PEER_WORKLOADS, Configuration
from delrec_lite.bench.peers import BudgetSpentError, PeerServing
from delrec_lite.bench.workloads import K, Requests
from delrec_lite.console import Console
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import rank_all, rank_chosen

# Requests over which a peer's accuracy is taken: the slow ones need a second each.
PEER_REQUESTS = 32
NOT_RANKED = 10**6


def measure_accuracy(
    configurations: Sequence[Configuration], workloads: Sequence[str], requests: Requests, console: Console
) -> None:
    """Set the accuracy of every configuration, by workload; the same model is ranked once.

    A peer without the time for all requests gets none, and the workload's entry in ``unfinished``.
    """
    measured: dict[tuple[str, str | None], dict[str, dict[str, Any]]] = {}
    for c in configurations:
        if isinstance(c.serving, PeerServing):
            planned = [workload for workload in workloads if workload in PEER_WORKLOADS]
            for n, workload in enumerate(planned):
                c.serving.start_stage(2 * len(planned) - n)  # as many stages are timed
                c.accuracy[workload], c.unfinished[workload] = _peer_accuracy(c.serving, workload, requests, console)
            continue
        if (c.path, c.quant) not in measured:
            catalogue = c.ranks_catalogue
            rank, scorer = (rank_all, c.serving.scores) if catalogue else (rank_chosen, c.serving.score_candidates)
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


def _peer_accuracy(
    peer: PeerServing, workload: str, requests: Requests, console: Console
) -> tuple[dict[str, Any], str]:
    """From the titles that a peer answers with; a target that is not among them has the rank ``NOT_RANKED``.

    Returns:
        The accuracy, empty without the time for all requests; and then how many were answered.
    """
    ranks = []
    count = min(PEER_REQUESTS, len(requests))
    with console.progress(f"accuracy, {workload}", count) as tick:
        for n in range(count):
            request = requests.of(workload, n)
            try:
                answer = peer.recommend(request.history, K, request.candidates).items
            except BudgetSpentError:
                return {}, f"accuracy {n} of {count} requests"
            target = requests.titles[requests.split.targets[n]]
            ranks.append(answer.index(target) + 1 if target in answer else NOT_RANKED)
            tick(1, peer.name)
    values = np.array(ranks)
    accuracy = {
        **_protocol("full" if workload == "cold" else "sampled", requests),
        "requests": len(values),
        **{m: round(float(per_user(values, m).mean()), 4) for m in ("HR@1", "NDCG@10")},
    }
    return accuracy, ""


def _protocol(name: str, requests: Requests) -> dict[str, Any]:
    """What was ranked: the whole catalogue, or so many candidates."""
    return {"protocol": name, **({"candidates": requests.candidates.items.shape[1]} if name == "sampled" else {})}
