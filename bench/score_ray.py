"""Bulk scoring by Ray: ``python -m delrec_lite.bench.score_ray BUNDLE --out FILE``; needs Ray.

Scores generated users by processes of this machine and by Ray, which must have the same rows. Then an actor of Ray is
killed in the middle, and the command itself, which is called again: nothing may be lost, nothing may come twice.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from delrec_lite.bench.process_tree import descendants_of
from delrec_lite.bench.score import Run, rows_in, whole, write_users
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.errors import DelrecError, MissingPackageError, install_line
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle

ACTOR = "MapWorker"


def actors_of(process: int) -> list[int]:
    """The actors that score, among the descendants of a process."""
    found = []
    for child in descendants_of(process):
        try:
            name = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if name.startswith("ray::") and ACTOR in name:
            found.append(child)
    return found


def killed(bundle: Path, users: Path, out: Path, words: Sequence[str], whom: str, expected: Any) -> dict[str, Any]:
    """Kill an actor, or the command, after the first part; what came of it.

    Raises:
        DelrecError: There was nothing to kill.
    """
    run = Run(bundle, users, out, *words)
    run.wait_for_part()
    victims = actors_of(run.process.pid)[:1] if whom == "actor" else [run.process.pid]
    if not victims or run.process.poll() is not None:
        raise DelrecError("the run ended before it could be disturbed", "score more --users")
    os.kill(victims[0], signal.SIGKILL)
    ended = run.end()
    facts = {"exit": ended["exit"], "finished_parts": run.finished_parts(), "traceback": "Traceback" in ended["errors"]}
    facts["second_exit"] = Run(bundle, users, out, *words).end()["exit"]
    return {**facts, "equal": bool(rows_in(out).equals(expected))}


def parser() -> argparse.ArgumentParser:
    """Bundle and sizes."""
    options = script_parser("score_ray", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--users", type=int, default=10_000)
    options.add_argument("-k", type=int, default=20)
    options.add_argument("--part-rows", type=int, default=500)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    try:
        report: dict[str, Any] = {**stamp(), "ray": version("ray"), "workers": options.workers}
    except PackageNotFoundError as error:
        raise MissingPackageError("score_ray needs ray, which is not installed", install_line("ray")) from error
    report["bundle"] = {"name": bundle.name, "quant": bundle.manifest["model"]["quant"], "items": len(bundle.items.ids)}
    report["seed"], report["k"], report["part_rows"] = options.seed, options.k, options.part_rows
    words = ["-k", str(options.k), "--part-rows", str(options.part_rows), "--workers", str(options.workers)]
    by_ray = [*words, "--engine", "ray"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        users = work / "users.parquet"
        write_users(bundle, users, options.users, options.seed)
        for name, some in (("local", words), ("by_ray", by_ray)):
            report[name] = whole(Run(options.bundle, users, work / name, *some))
            print(name, json.dumps(report[name]), file=sys.stderr)
        expected = rows_in(work / "local")
        report["rows"] = len(expected)
        report["bytes"] = sum(part.stat().st_size for part in (work / "local").glob("part-*.parquet"))
        report["same_rows"] = bool(rows_in(work / "by_ray").equals(expected))
        report["killed"] = {}
        for whom in ("actor", "command"):
            facts = killed(options.bundle, users, work / whom, by_ray, whom, expected)
            report["killed"][whom] = facts
            print(whom, json.dumps(facts), file=sys.stderr)
    write_json(report, options.out)


if __name__ == "__main__":
    main()
