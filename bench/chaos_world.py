"""What the actors of `bench.chaos` share: the server, the right answers, what was acknowledged, what went wrong."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delrec_lite.bench.faults import Control

MOST_PROBLEMS = 50


class Timeline:
    """Which states something may have had: between the call that changes it and the answer to that, two."""

    def __init__(self, state: bool = False) -> None:
        self._lock = threading.Lock()
        self._states: list[tuple[float, frozenset[bool]]] = [(0.0, frozenset({state}))]

    def may_be(self, *states: bool) -> None:
        """From now on it has one of these."""
        with self._lock:
            self._states.append((time.monotonic(), frozenset(states)))

    def between(self, start: float, end: float) -> frozenset[bool]:
        """Those that it may have had between two moments."""
        with self._lock:
            states = list(self._states)
        found = {state for moment, possible in states if start <= moment <= end for state in possible}
        return frozenset(found) | [possible for moment, possible in states if moment <= start][-1]


@dataclass
class World:
    """The server and everything that is known about it.

    Attributes:
        port: Of the server.
        pid: Of the server.
        log: Its log.
        control: Its disk and its clock.
        histories: That are asked.
        expected: First ids by bundle's label, number of the history, and whether ``hidden`` is unavailable.
        hidden: The item whose availability changes.
        ends: When the chaos ends, by the monotonic clock.
        disk_full: States of the log's disk.
        unavailable: States of ``hidden``.
        statuses: Answers by actor and status.
        acknowledged: Events that were: request, item, kind.
        problems: What should not have happened.
    """

    port: int
    pid: int
    log: Path
    control: Control
    histories: Sequence[list[str]]
    expected: Mapping[tuple[str, int, bool], list[str]]
    hidden: str
    ends: float
    disk_full: Timeline = field(default_factory=Timeline)
    unavailable: Timeline = field(default_factory=Timeline)
    statuses: Counter[str] = field(default_factory=Counter)
    acknowledged: set[tuple[str, str, str]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def goes_on(self) -> bool:
        """Whether the chaos goes on."""
        return time.monotonic() < self.ends

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        time.sleep(max(0.0, min(seconds, self.ends - time.monotonic())))

    def problem(self, text: str) -> None:
        """Note what should not have happened."""
        with self.lock:
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(text)

    def count(self, actor: str, status: int | str) -> None:
        """Count an answer."""
        with self.lock:
            self.statuses[f"{actor} {status}"] += 1

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and content of an answer; status 0 where there was none."""
        text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, text, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.headers.get_content_type()
            parsed = json.loads(content) if kind == "application/json" else content.decode()
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, parsed
        except (OSError, http.client.HTTPException) as error:
            return 0, {}, str(error)
        finally:
            connection.close()

    def recommend(self, actor: str, rng: random.Random) -> tuple[str, list[str], float] | None:
        """Ask for a list and check it; its request's id, its items and when it was asked for."""
        number, start = rng.randrange(len(self.histories)), time.monotonic()
        body: dict[str, Any] = {"history": self.histories[number], "k": 10}
        if rng.random() < 0.5:
            body["session"] = f"s{rng.randrange(20)}"
        status, headers, answer = self.call("POST", "/v1/recommend", body)
        self.count(actor, status)
        if status != 200:
            if status not in (503, 504) or (status == 503 and "retry-after" not in headers):
                self.problem(f"{actor}: /v1/recommend gave {status}: {str(answer)[:200]}")
            return None
        ids = [item["id"] for item in answer["items"]]
        states = self.unavailable.between(start, time.monotonic())
        right = [self.expected.get((answer["bundle"], number, state)) for state in states]
        if ids not in right:
            self.problem(f"{actor}: history {number} of {answer['bundle']} gave {ids}, not {right}")
        return headers["x-request-id"], ids, start
