"""Load on a running server: many clients for a while, then what they saw and what it cost.

As a module: ``python -m delrec_lite.bench.load URL TITLES --clients 32 --seconds 60 --out FILE``.
"""

import argparse
import http.client
import json
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from delrec_lite.files import write_whole
from delrec_lite.provenance import commit, machine, now, versions


@dataclass(frozen=True)
class Load:
    """What clients saw.

    Attributes:
        clients: At once, each asking again as soon as it was answered (after 503: when it was told to).
        seconds: Asked for.
        statuses: Answers by HTTP status; 0: none came.
        ms: ``p50``, ``p95``, ``p99``, ``max`` of the answers with status 200.
        per_second: Answers with status 200.
        differing: Answers other than the one that a single client got for the same request before.
        rss_before: Resident bytes of the server before, after its first answers; 0 if unknown.
        rss_after: The same afterwards.
    """

    clients: int
    seconds: float
    statuses: dict[str, int]
    ms: dict[str, float]
    per_second: float
    differing: int
    rss_before: int
    rss_after: int


def load(url: str, histories: list[list[str]], clients: int, seconds: float, pid: int | None = None) -> Load:
    """Ask ``/v1/recommend`` with many clients at once.

    Args:
        url: Of the server, ``http://127.0.0.1:8080``; only this machine is ever asked.
        histories: What is asked, in turn.
        clients: How many at once.
        seconds: For how long.
        pid: Of the server's process, for its memory.

    Raises:
        ValueError: The address is not one of this machine.
    """
    address = urlsplit(url)
    if address.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise ValueError(f"{url} is not on this machine")
    bodies = [json.dumps({"history": history, "k": 10}) for history in histories]
    alone = [_titles(_ask(address.netloc, body)[1]) for body in bodies]
    before = _rss(pid)
    times: list[float] = []
    statuses: Counter[str] = Counter()
    differing = 0
    lock, until = threading.Lock(), time.monotonic() + seconds

    def client(n: int) -> None:
        nonlocal differing
        at = n
        while time.monotonic() < until:
            at = (at + 1) % len(bodies)
            start = time.perf_counter()
            status, text = _ask(address.netloc, bodies[at])
            took = (time.perf_counter() - start) * 1e3
            with lock:
                statuses[str(status)] += 1
                if status == 200:
                    times.append(took)
                    differing += _titles(text) != alone[at]
            if status != 200:
                time.sleep(1.0)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ms = {f"p{q}": round(float(np.percentile(times, q)), 2) for q in (50, 95, 99)} | {"max": round(max(times), 2)}
    rate = round(len(times) / seconds, 2)
    return Load(clients, seconds, dict(statuses), ms, rate, differing, before, _rss(pid))


def _ask(netloc: str, body: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(netloc, timeout=60)
    try:
        connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def _titles(text: bytes) -> list[str]:
    return [item["title"] for item in json.loads(text)["items"]]


def _rss(pid: int | None) -> int:
    path = Path(f"/proc/{pid}/status")
    if pid is None or not path.is_file():
        return 0
    line = next(line for line in path.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """One load, printed and written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--length", type=int, default=20, help="items of a history, drawn from the catalogue")
    parser.add_argument("--pid", type=int, default=None, help="of the server, for its memory")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    with urllib.request.urlopen(f"{asked.url}/v1/items?limit=100") as answer:
        titles = [item["title"] for item in json.loads(answer.read())]
    rng = np.random.default_rng(1)
    histories = [[titles[i] for i in rng.choice(len(titles), asked.length)] for _ in range(64)]
    found = load(asked.url, histories, asked.clients, asked.seconds, asked.pid)
    report: dict[str, Any] = {"created": now(), "commit": commit(), "machine": machine(), "versions": versions()}
    report |= asdict(found)
    print(json.dumps(asdict(found), indent=2))
    if asked.out:
        write_whole(asked.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
