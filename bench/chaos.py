"""A server in mixed trouble: ``python -m delrec_lite.bench.chaos BUNDLE --out FILE``.

For ten minutes clients ask and click while bodies arrive slowly, callers hang up, good and broken bundles are put in
place with SIGHUP, items become unavailable, the disk of the feedback log is full, and the clock jumps. Nothing may
answer 500, every answer must be the one that a lone client gets of the same bundle, every place in the queue must be
free afterwards, and every event that was acknowledged must be in the log after the server has been killed.
"""

import argparse
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.bench import chaos_actors as actors
from delrec_lite.bench.chaos_world import World
from delrec_lite.bench.faults import Control, build
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.errors import DelrecError
from delrec_lite.provenance import stamp
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.recommender import Recommender

HISTORIES = 24
Actor = Callable[[World, random.Random], None]


def measure(bundle: Path, folder: Path, seconds: float, clients: int, seed: int) -> dict[str, Any]:
    """Run the chaos and return the report.

    Args:
        bundle: Served, and with one item more.
        folder: For copies of it, the log, and what makes the faults.
        seconds: How long it lasts.
        clients: That ask and click.
        seed: Of all that is drawn.
    """
    first, second, served = folder / "first.delrec", folder / "second.delrec", folder / "served.delrec"
    shutil.copytree(bundle, first)
    add_items(first, {"chaos-1": "A Quite Chaotic Film (2026)"}, second)
    shutil.copytree(first, served)
    logs = folder / "log"
    logs.mkdir()
    control = Control(build(folder), logs)
    histories, expected, hidden = right_answers([first, second], seed)
    log = logs / "feedback.sqlite"
    with server(served, log, control) as (port, process, output):
        world = World(port, process.pid, output, control, histories, expected, hidden, time.monotonic() + seconds)
        files = _metric(world, "process_open_fds")
        cast = _cast(world, clients, actors.replacer([first, second], served))
        _play(world, cast, seed)
        control.fill_disk(False)
        control.set_clock(0)
        calm = _calm(world, files)
        process.kill()
        process.wait()
        _check_output(world)
    events = _check_log(world, log)
    return {
        "seconds": seconds,
        "seed": seed,
        "actors": sorted({name for name, _ in cast}),
        "statuses": dict(sorted(world.statuses.items())),
        "acknowledged": len(world.acknowledged),
        **events,
        **calm,
        "problems": world.problems,
    }


def right_answers(
    bundles: Sequence[Path], seed: int
) -> tuple[list[list[str]], dict[tuple[str, int, bool], list[str]], str]:
    """Histories, what each bundle answers to a lone caller, with and without an item, and that item."""
    rng, hidden = random.Random(seed), ""
    expected: dict[tuple[str, int, bool], list[str]] = {}
    histories: list[list[str]] = []
    for bundle in bundles:
        with Recommender.load(bundle) as recommender:
            ids = recommender.bundle.items.ids
            if not histories:
                histories = [[f"id:{item}" for item in rng.sample(ids, rng.randint(1, 8))] for _ in range(HISTORIES)]
                used = {item for history in histories for item in history}
                best = [item.id for history in histories for item in recommender.recommend(history).items[:3]]
                hidden = next((item for item in best if f"id:{item}" not in used), best[0])
            for number, history in enumerate(histories):
                for without in (False, True):
                    answer = recommender.recommend(history, exclude=[f"id:{hidden}"] if without else None)
                    expected[recommender.bundle.label, number, without] = [item.id for item in answer.items]
    return histories, expected, hidden


@contextmanager
def server(bundle: Path, log: Path, control: Control) -> Iterator[tuple[int, "subprocess.Popen[bytes]", Path]]:
    """A server with a feedback log and faults: its port, process and output.

    Raises:
        DelrecError: It did not start.
    """
    output = bundle.with_name("output")
    command = [sys.executable, "-c", "from delrec_lite.cli.app import main; main()", "serve", str(bundle)]
    command += ["--port", "0", "--feedback-log", str(log)]
    settings = [f"{name}={value}" for name, value in control.environment.items()]
    with output.open("wb") as file:
        process = subprocess.Popen(["env", *settings, *command], stderr=file)
    try:
        until = time.monotonic() + 120
        while not (found := re.search(r'"address": "http://127.0.0.1:(\d+)"', output.read_text())):
            if process.poll() is not None or time.monotonic() > until:
                raise DelrecError(f"no server over {bundle}: {output.read_text()[-500:]}", "try `delrec-lite serve`")
            time.sleep(0.05)
        yield int(found[1]), process, output
    finally:
        process.kill()
        process.wait()


def _cast(world: World, clients: int, replacer: Actor) -> list[tuple[str, Actor]]:
    """All actors; availability only where the server has it."""
    cast: list[tuple[str, Actor]] = [("client", actors.client)] * clients
    cast += [("slow sender", actors.slow_sender)] * 3
    cast += [("hanger-up", actors.hanger_up)] * 2
    cast += [("wrong sender", actors.wrong_sender), ("observer", actors.observer), ("disk", actors.disk)]
    cast += [("clock", actors.clock), ("replacer", replacer)]
    _, _, document = world.call("GET", "/openapi.json")
    if "/v1/catalog/availability" in document["paths"]:
        cast.append(("availability", actors.availability))
    return cast


def _play(world: World, cast: Sequence[tuple[str, Actor]], seed: int) -> None:
    """Let all actors act until the end."""

    def act(name: str, actor: Actor, number: int) -> None:
        try:
            actor(world, random.Random(f"{seed} {number}"))
        except Exception as error:  # else a report without this actor would look good
            world.problem(f"{name} ended: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=act, args=(*entry, number)) for number, entry in enumerate(cast)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _calm(world: World, files: float) -> dict[str, Any]:
    """After the chaos: nothing waits, nothing is left open, and a lone client is answered as before."""
    until = time.monotonic() + 30
    names = ("delrec_waiting", "delrec_feedback_waiting")
    while any(_metric(world, name) for name in names) and time.monotonic() < until:
        time.sleep(0.2)
    left = {name: _metric(world, name) for name in names}
    for name, value in left.items():
        if value:
            world.problem(f"{name} is {value:.0f} after the end")
    opened = _metric(world, "process_open_fds") - files
    if opened > 20:
        world.problem(f"{opened:.0f} more files and connections are open than before")
    rng, alone = random.Random(0), 0
    for _ in range(2 * HISTORIES):
        served = world.recommend("alone", rng)
        alone += served is not None
        if served is None:
            world.problem("a lone client is not answered after the end")
    return {"alone": alone, "left_waiting": left, "more_open_files": opened}


def _metric(world: World, name: str) -> float:
    _, _, text = world.call("GET", "/metrics")
    found = re.search(rf"^{name} (\S+)$", str(text), re.MULTILINE)
    if found is None:
        raise DelrecError(f"the server has no metric {name}", "run this on Linux")
    return float(found[1])


def _check_output(world: World) -> None:
    text = world.log.read_text(errors="replace")
    if "Traceback" in text:
        world.problem(f"the server's log has a traceback: {text[text.index('Traceback') :][:1500]}")
    failed = [line for line in text.splitlines() if '"status": 500' in line]
    if failed:
        world.problem(f"{len(failed)} answers had status 500: {failed[0][:200]}")


def _check_log(world: World, log: Path) -> dict[str, Any]:
    """What a killed server left: each acknowledged event once, in a sound file."""
    with closing(sqlite3.connect(log)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone()[0]
        query = "SELECT request, item, event FROM events JOIN served ON served.id = events.served"
        stored = set(database.execute(query).fetchall())
        lists = database.execute("SELECT count(*) FROM served").fetchone()[0]
    lost = world.acknowledged - stored
    if sound != "ok":
        world.problem(f"the log is damaged: {sound}")
    if lost:
        world.problem(f"{len(lost)} acknowledged events are lost, such as {min(lost)}")
    return {"lists": lists, "events": len(stored), "lost": len(lost)}


def parser() -> argparse.ArgumentParser:
    """Bundle and length."""
    options = script_parser("chaos", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--seed", type=int, default=1)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chaos and write the report; the exit code is 1 where something went wrong."""
    options = parser().parse_args(arguments)
    report = stamp()
    with tempfile.TemporaryDirectory() as folder:
        report |= measure(options.bundle, Path(folder), options.seconds, options.clients, options.seed)
    write_json(report, options.out)
    print(json.dumps({name: report[name] for name in ("statuses", "lost", "problems")}, indent=1), file=sys.stderr)
    if report["problems"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
