"""`/healthz` and `/readyz`: whether the process runs, and whether its model answers."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.arms import Arm, Arms
from delrec_lite.server.schemas import Failure
from delrec_lite.server.worker import QueueFull, Worker

LOG = logging.getLogger("delrec_lite.server")
# So many answers that failed with an internal error, one after the other, make a server not ready.
MOST_FAILURES = 5
# Seconds after an answer during which nobody needs to ask whether the model answers.
RECENT = 5.0
# Seconds that `/readyz` waits for the answer to its own question; monitoring seldom waits longer.
PATIENCE = 0.8


@dataclass
class _Watched:
    """One model's thread.

    Attributes:
        name: In messages.
        worker: Owns the model.
        asked: Since when it has answered nothing, though it was asked; infinite: it answers.
        probe: The last question.
    """

    name: str
    worker: Worker
    asked: float = math.inf
    probe: "Future[Any] | None" = None


class Health:
    """Watches the models of a server.

    Where nothing was answered lately, ``/readyz`` asks the model itself. A question that is not answered within the
    deadline of requests makes the server not ready, until the model answers again.

    Each copy of a model is watched by itself: its sessions have no other.

    Args:
        arms: The workers to watch.
    """

    def __init__(self, arms: Arms) -> None:
        self._arms = arms
        self._watched = [_Watched(_name(arm, n), worker) for arm in arms for n, worker in enumerate(arm.worker.each)]
        self._said = ""

    def ended(self) -> str:
        """Which model's thread has ended, after which only a new start helps; empty: none."""
        return next((f"the thread of {one.name} has ended" for one in self._watched if not one.worker.alive), "")

    def problem(self) -> str:
        """Why the server is not ready, as far as is known without asking the model; empty: it is ready."""
        return self.ended() or next(filter(None, map(_problem, self._watched)), "")

    async def ask(self) -> str:
        """``problem``, after asking each model that has answered nothing lately."""
        await asyncio.gather(*map(_probe, self._watched))
        problem = self.problem()
        if problem != self._said:
            LOG.warning(json.dumps({"ready": not problem, **({"error": problem} if problem else {})}))
        self._said = problem
        return problem

    def facts(self) -> dict[str, str]:
        """What ``/readyz`` says of a server that is ready."""
        first, *others = [arm.worker.recommender for arm in self._arms]
        facts = {"status": "ready", "bundle": first.bundle.name}
        facts["teacher"] = "yes" if first.teacher is not None else "no"
        return facts | ({"compared": others[0].bundle.name} if others else {})


def _problem(watched: _Watched) -> str:
    pulse, asked = watched.worker.pulse, watched.asked
    if pulse.failures >= MOST_FAILURES:
        return f"the last {pulse.failures} answers of {watched.name} failed"
    seconds = time.monotonic() - asked
    if pulse.answered < asked and seconds >= watched.worker.seconds:
        return f"{watched.name} has answered nothing for {seconds:.0f} seconds"
    return ""


async def _probe(watched: _Watched) -> None:
    worker, now = watched.worker, time.monotonic()
    if worker.pulse.answered >= watched.asked:
        watched.asked = math.inf
    if not worker.alive or now - worker.pulse.answered < min(RECENT, worker.seconds):
        return
    watched.asked = min(watched.asked, now)
    if watched.probe is None or watched.probe.done():
        watched.probe = None
        with suppress(QueueFull):  # others wait too: their answers count as well
            watched.probe = worker.ask(ask_model)
    if watched.probe is not None:
        answer = asyncio.wrap_future(watched.probe)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # the pulse has counted it
        await asyncio.wait({answer}, timeout=min(PATIENCE, worker.seconds))


def ask_model(recommender: Recommender) -> float:
    """The score of the best recommendation after the first item of the catalogue; 0 where there is nothing to rank.

    Raises:
        ArithmeticError: It is no number.
    """
    first = f"id:{recommender.bundle.items.ids[0]}"
    among = None if recommender.bundle.prompt.format.ranks_catalogue else [first]
    items = recommender.recommend([first], 1, candidates=among, exclude_history=False).items
    score = items[0].score if items else 0.0
    if not math.isfinite(score):
        raise ArithmeticError("the model gives scores that are no numbers")
    return score


def add_health(api: FastAPI, health: Health) -> None:
    """Add both routes."""
    failing: Mapping[int | str, dict[str, Any]] = {503: {"model": Failure, "description": "It does not"}}

    @api.get("/healthz", responses=dict(failing), response_model=dict[str, str])
    async def healthz() -> Any:
        """Whether the process can answer; where it cannot, only a new start helps."""
        problem = health.ended()
        return _failure(problem, "start the server again") if problem else {"status": "ok"}

    @api.get("/readyz", responses=dict(failing), response_model=dict[str, str])
    async def readyz() -> Any:
        """Whether the model answers."""
        problem = await health.ask()
        if problem:
            return _failure(problem, "the log of the server may say why; see /healthz")
        return health.facts()


def _failure(error: str, hint: str) -> JSONResponse:
    return JSONResponse({"error": error, "hint": hint}, 503, {"Retry-After": "5"})


def _name(arm: Arm, number: int) -> str:
    name = "the model" if arm.name == "A" else "the compared model"
    return name if len(arm.worker.each) == 1 else f"copy {number + 1} of {name}"
