"""What a server does under load: ``python -m delrec_lite.bench.load BUNDLE... --out FILE``.

Many clients, and one alone, ask a `delrec-lite serve` for a while: in turns one that evaluates waiting requests
together and one that evaluates each alone. Then many ask one with a queue that holds all of them, and one with a queue
that does not.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import requests_of
from delrec_lite.errors import DelrecError
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_batch import SEQUENCES as TOGETHER

RSS_EVERY = 1000


@dataclass(frozen=True)
class LoadResult:
    """What clients saw.

    Attributes:
        clients: At once, each asking again as soon as it was answered (after 503: after the ``Retry-After`` time).
        seconds: How long it took.
        statuses: Answers by HTTP status; 0: the connection failed.
        refused_honestly: Answers 503 with a ``Retry-After`` above 0.
        per_second: Answers with status 200.
        ms: ``p50``, ``p95``, ``p99``, ``max`` of the answers with status 200.
        turn_ms: Milliseconds by answers. If a request always waits, this is the cost of one place in the queue, and
            latency is bounded by it times the places: the clients, or the queue and the request being answered.
        differing: Answers unlike the one that a single client got for the same request before.
        rss: Resident bytes of the server: before, after every ``RSS_EVERY`` answers, at the end.
    """

    clients: int
    seconds: float
    statuses: dict[str, int]
    refused_honestly: int
    per_second: float
    ms: dict[str, float]
    turn_ms: float
    differing: int
    rss: list[int]


def measure_load(
    url: str, histories: list[list[str]], clients: int, seconds: float, requests: int = 0, pid: int | None = None
) -> LoadResult:
    """Ask ``/v1/recommend`` with many clients at once.

    Args:
        url: Of the server, ``http://127.0.0.1:8080``; other machines are refused.
        histories: The requests' histories, in turn.
        clients: How many at once.
        seconds: For how long, at least.
        requests: How many answers, at least.
        pid: Of the server's process, for its memory.

    Raises:
        ValueError: The address is not one of this machine.
        DelrecError: Nothing was answered.
    """
    address = urlsplit(url)
    if address.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise ValueError(f"{url} is not on this machine")
    bodies = [json.dumps({"history": history, "k": 10}) for history in histories]
    expected = [_titles(_post(address.netloc, body)[2]) for body in bodies]
    rss = _rss(pid)
    times: list[float] = []
    statuses: Counter[str] = Counter()
    differing = honest = 0
    lock, began = threading.Lock(), time.monotonic()

    def client(n: int) -> None:
        nonlocal differing, honest
        at = n
        while time.monotonic() < began + seconds or (len(times) < requests and statuses["0"] < clients):
            at = (at + 1) % len(bodies)
            start = time.perf_counter()
            status, wait, text = _post(address.netloc, bodies[at])
            ms = (time.perf_counter() - start) * 1e3
            with lock:
                statuses[str(status)] += 1
                if status == 200:
                    times.append(ms)
                    differing += _titles(text) != expected[at]
                    if len(times) % RSS_EVERY == 0:
                        rss.extend(_rss(pid))
                honest += status == 503 and wait > 0
            if status != 200:
                time.sleep(wait or 1.0)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    duration = time.monotonic() - began
    if not times:
        raise DelrecError(f"{url} answered nothing: {dict(statuses)}", "look into the server's log")
    rss.extend(_rss(pid))
    return LoadResult(
        clients=clients,
        seconds=round(duration, 1),
        statuses=dict(statuses),
        refused_honestly=honest,
        per_second=round(len(times) / duration, 2),
        ms={f"p{q}": round(float(np.percentile(times, q)), 2) for q in (50, 95, 99)} | {"max": round(max(times), 2)},
        turn_ms=round(1e3 * duration / len(times), 2),
        differing=differing,
        rss=rss,
    )


def _post(netloc: str, body: str) -> tuple[int, float, bytes]:
    """Status, seconds to wait before asking again, body."""
    connection = http.client.HTTPConnection(netloc, timeout=60)
    try:
        connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, float(answer.headers.get("Retry-After", 0)), answer.read()
    except OSError:
        return 0, 0.0, b""
    finally:
        connection.close()


def _titles(text: bytes) -> list[str]:
    return [item["title"] for item in json.loads(text)["items"]]


def _rss(pid: int | None) -> list[int]:
    path = Path(f"/proc/{pid}/status")
    if pid is None or not path.is_file():
        return []
    line = next(line for line in path.read_text().splitlines() if line.startswith("VmRSS"))
    return [int(line.split()[1]) * 1024]


@contextmanager
def server(bundle: Path, queue: int, together: int = TOGETHER, workers: int = 1) -> Iterator[tuple[str, int]]:
    """A new server over a bundle: its address and process id.

    Raises:
        DelrecError: It did not start.
    """
    command = [sys.executable, "-c", "from delrec_lite.cli.app import main; main()"]
    command += ["serve", str(bundle), "--port", "0", "--queue", str(queue), "--micro-batch", str(together)]
    command += ["--workers", str(workers)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            until = time.monotonic() + 60
            while "address" not in (lines := _whole_lines(log)):
                if process.poll() is not None or time.monotonic() > until:
                    raise DelrecError(f"no server over {bundle}: {lines.strip()}", "try `delrec-lite serve`")
                time.sleep(0.05)
            yield json.loads(lines.splitlines()[0])["address"], process.pid
        finally:
            process.terminate()
            process.wait()


def _whole_lines(log: Any) -> str:
    log.seek(0)
    text: str = log.read()
    return text if text.endswith("\n") else ""


def parser() -> argparse.ArgumentParser:
    """Bundles and sizes."""
    options = script_parser("load", __doc__)
    options.add_argument("bundle", type=Path, nargs="+")
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--rounds", type=int, default=2, help="runs of each kind, in turns")
    options.add_argument(
        "--batch", type=int, default=TOGETHER, help="most requests evaluated together, beside 1; 1: no comparison"
    )
    options.add_argument("--workers", type=int, default=1, help="models of each server")
    options.add_argument("--requests", type=int, default=20_000, help="least answers with room for all")
    options.add_argument("--narrow", type=int, default=8, help="places in the queue that is too short")
    return options


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All runs of one bundle."""
    bundle = Bundle.open(path)
    requests = requests_of(bundle)
    histories = [requests.of("cold", n).history for n in range(len(requests))]
    report: dict[str, Any] = {
        "bundle": {"name": bundle.name, "quant": bundle.manifest["model"]["quant"], "source": requests.source}
    }

    def run(clients: int, queue: int, together: int, least: int = 0) -> dict[str, Any]:
        with server(path, queue, together, options.workers) as (url, pid):
            result = measure_load(url, histories, clients, options.seconds, least, pid)
        # A request waits at most for the evaluation that has begun, and for all places in the queue.
        bound = result.turn_ms * (min(queue, clients) + min(together, clients))
        line = {
            "queue": queue,
            "together": together,
            "workers": options.workers,
            **asdict(result),
            "bound_ms": round(bound, 2),
        }
        print(bundle.name, json.dumps(line, indent=1), file=sys.stderr)
        return line

    room = 2 * options.clients
    batches = sorted({options.batch, 1})
    runs = []
    for turn in range(options.rounds):
        order = batches if turn % 2 else batches[::-1]
        runs += [run(clients, room, together) for clients in (options.clients, 1) for together in order]
    report["runs"] = runs
    report["room for all"] = run(options.clients, room, options.batch, options.requests)
    report["too short"] = run(options.clients, options.narrow, options.batch)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every bundle and write the report; that of the first is at the top, the others behind it."""
    options = parser().parse_args(arguments)
    report: dict[str, Any] = stamp()
    first, *others = options.bundle
    report |= measure(first, options)
    report["others"] = [measure(path, options) for path in others]
    write_json(report, options.out)


if __name__ == "__main__":
    main()
