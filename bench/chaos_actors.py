"""The actors of `bench.chaos`: each function does one kind of mischief, or an honest client's work, until the end."""

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from delrec_lite.bench.chaos_world import World

JUMPS = (0, 5, -5, 3600, -3600, 86_400, -86_400, 400 * 86_400)
_BAD_BODIES = (b"", b"{", b"[]", b"\xff", b'{"history": 3}', b'{"history": ["x"], "on_unknown": "refuse"}', b'{"k": 0}')
# A body is read for so long: delrec_lite.server.guard.
_BODY_SECONDS = 15.0


def client(world: World, rng: random.Random) -> None:
    """Ask for lists, and tell what was clicked."""
    while world.goes_on:
        served = world.recommend("client", rng)
        if served is not None and rng.random() < 0.7:
            _click(world, rng, *served)
        world.pause(rng.uniform(0, 0.1))


def _click(world: World, rng: random.Random, request: str, items: list[str], served: float) -> None:
    """Send an event; one that is acknowledged must be in the log at the end."""
    item, kind = rng.choice(items), rng.choice(("click", "purchase"))
    event = {"request_id": request, "item": item, "event": kind}
    many = rng.random() < 0.3
    status, headers, answer = world.call("POST", "/v1/feedback", {"events": [event, event]} if many else event)
    world.count("feedback", status)
    lost = many and status == 200 and answer["refused"]
    if status == 200 and not lost:
        with world.lock:
            world.acknowledged.add((request, item, kind))
    elif (status in (404, 507) or lost) and True in world.disk_full.between(served - 1, time.monotonic()):
        pass  # the disk was full: the list or the event could not be written
    elif status != 503 or "retry-after" not in headers:
        world.problem(f"feedback gave {status}: {str(answer)[:200]}")


def slow_sender(world: World, rng: random.Random) -> None:
    """Send half of a body, wait, then send the rest."""
    while world.goes_on:
        body = json.dumps({"history": world.histories[0]}).encode()
        wait = min(rng.choice((0.5, 3.0, _BODY_SECONDS + 3)), max(0.0, world.ends - time.monotonic()))
        with socket.create_connection(("127.0.0.1", world.port), timeout=60) as connection:
            connection.sendall(_head(len(body)) + body[:9])
            time.sleep(wait)
            try:
                connection.sendall(body[9:])
                status = connection.recv(65536)[9:12].decode()
            except OSError:
                status = "reset"
        world.count("slow", status)
        near = abs(wait - _BODY_SECONDS) < 2
        in_time, late = ("200", "503", "504"), ("408", "reset")
        if not near and status not in (in_time if wait < _BODY_SECONDS else late):
            world.problem(f"a body that took {wait:.1f} seconds gave {status!r}")


def hanger_up(world: World, rng: random.Random) -> None:
    """Close the connection in the middle of a request, or before its answer."""
    batch = json.dumps({"histories": [list(history) for history in world.histories] * 4}).encode()
    single = json.dumps({"history": world.histories[0]}).encode()
    while world.goes_on:
        path, body = rng.choice((("batch", batch), ("recommend", single), ("explain", single)))
        request = _head(len(body), path) + body
        with socket.create_connection(("127.0.0.1", world.port), timeout=60) as connection:
            connection.sendall(request[: rng.choice((5, 80, len(request) - 3, len(request), len(request)))])
            time.sleep(rng.uniform(0, 0.1))
        world.count("hang-up", "closed")
        world.pause(rng.uniform(0, 0.3))


def _head(length: int, path: str = "recommend") -> bytes:
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return head.encode()


def wrong_sender(world: World, rng: random.Random) -> None:
    """Send bodies that do not fit."""
    while world.goes_on:
        path = rng.choice(("recommend", "batch", "explain", "teacher", "feedback", "nothing"))
        status, _, answer = world.call("POST", f"/v1/{path}", rng.choice(_BAD_BODIES))
        world.count("wrong", status)
        if not 400 <= status < 500 and status not in (503, 504):
            world.problem(f"a wrong body to {path} gave {status}: {str(answer)[:200]}")
        world.pause(rng.uniform(0, 0.4))


def observer(world: World, rng: random.Random) -> None:
    """Ask for health and metrics, which must always be good."""
    while world.goes_on:
        for path in ("/healthz", "/readyz", "/metrics"):
            status, _, answer = world.call("GET", path)
            world.count("observer", status)
            if status != 200:
                world.problem(f"{path} gave {status}: {str(answer)[:200]}")
        world.pause(rng.uniform(0.5, 1.0))


def disk(world: World, rng: random.Random) -> None:
    """Fill the disk of the feedback log, and free it."""
    while world.goes_on:
        world.pause(rng.uniform(2, 6))
        world.disk_full.may_be(True, False)
        world.control.fill_disk(True)
        world.pause(rng.uniform(1, 4))
        world.control.fill_disk(False)
        world.disk_full.may_be(True, False)
        world.pause(0.5)  # what failed before is refused by now
        world.disk_full.may_be(False)
        world.count("disk", "full and free")


def clock(world: World, rng: random.Random) -> None:
    """Let the clock jump."""
    while world.goes_on:
        world.control.set_clock(rng.choice(JUMPS))
        world.count("clock", "jumps")
        world.pause(rng.uniform(0.5, 3))


def availability(world: World, rng: random.Random) -> None:
    """Make an item unavailable, and available."""
    hidden = False
    while world.goes_on:
        world.unavailable.may_be(True, False)
        lists = ("available", "unavailable") if hidden else ("unavailable", "available")
        status, _, answer = world.call("POST", "/v1/catalog/availability", {lists[0]: [f"id:{world.hidden}"]})
        world.count("availability", status)
        if status == 200:
            hidden = not hidden
            world.unavailable.may_be(hidden)
        else:
            world.problem(f"availability gave {status}: {str(answer)[:200]}")
        world.pause(rng.uniform(0.2, 2))


def replacer(good: list[Path], served: Path) -> Callable[[World, random.Random], None]:
    """Put good and broken bundles in place, and send SIGHUP.

    Args:
        good: Bundles that verify.
        served: Where the server looks for one.
    """

    def replace(world: World, rng: random.Random) -> None:
        while world.goes_on:
            broken = rng.random() < 0.5
            staged = served.with_name("staged")
            shutil.copytree(rng.choice(good), staged)
            if broken:
                _break(staged, rng)
            shutil.rmtree(served)
            staged.rename(served)
            before = _reloads(world)
            os.kill(world.pid, signal.SIGHUP)
            until = time.monotonic() + 60
            while len(now := _reloads(world)) == len(before) and time.monotonic() < until:
                time.sleep(0.05)
            outcome = "nothing" if len(now) == len(before) else now[-1]
            world.count("reload", f"{'broken' if broken else 'good'} bundle {outcome}")
            if outcome != ("refused" if broken else "done"):
                world.problem(f"SIGHUP with a {'broken' if broken else 'good'} bundle: {outcome}")
            world.pause(rng.uniform(0, 2))

    return replace


def _break(folder: Path, rng: random.Random) -> None:
    """Damage a bundle in one of the ways that a copy can go wrong."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".gguf", ".onnx", ".json"))
    path = rng.choice(files)
    how = rng.randrange(3)
    if how == 0:
        path.unlink()
    elif how == 1:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(bytes(path.stat().st_size))


def _reloads(world: World) -> list[str]:
    """What the log says of the reloads so far."""
    lines = [line for line in world.log.read_text(errors="replace").splitlines() if line.startswith('{"reload"')]
    return [json.loads(line)["reload"] for line in lines]
