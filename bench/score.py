"""Bulk scoring: ``python -m delrec_lite.bench.score BUNDLE --out FILE``.

Scores generated users by one and two processes, with a tenth and with all of them (memory must not differ), compares
with ``recommend_batch``, and kills workers, fills the disk and interrupts the command: it is called again, and its rows
must be those of a run without a fault. The users' histories are cut out of those in the bundle.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.faults import build, compiler
from delrec_lite.bench.process_tree import children_of
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import requests_of
from delrec_lite.data.packages import arrow
from delrec_lite.errors import DelrecError
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.scoring.scorer import Scorer

COMMAND = "from delrec_lite.cli.app import main; main()"
# Arms the library of faults in the process that scores the second part.
FULL_DISK = """
import sys
if sys.argv[:1] == ["-c"]:
    from pathlib import Path
    from delrec_lite.bench.faults import Fault, arm
    arm(Path({folder!r}), Fault("ENOSPC", {at}))
"""
COMPARED = 2000


def write_users(bundle: Bundle, path: Path, users: int, seed: int) -> None:
    """A Parquet file of users whose histories are pieces of the bundle's stored ones, a few items changed.

    Args:
        bundle: Whose stored requests are used.
        path: The file.
        users: How many.
        seed: Of what is drawn.
    """
    pa, rng = arrow(), np.random.default_rng(seed)
    requests, ids = requests_of(bundle), np.array(bundle.items.ids, dtype=object)
    index = {title: n for n, title in enumerate(bundle.items.titles)}
    stored = [[index[title] for title in requests.of("cold", n).history] for n in range(len(requests))]
    schema = pa.schema([("user_id", pa.int64()), ("history", pa.list_(pa.string()))])
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, users, 10_000):
            numbers = np.arange(start, min(users, start + 10_000))
            histories = []
            for _ in numbers:
                whole = np.array(stored[rng.integers(len(stored))])
                history = whole[: rng.integers(1, len(whole) + 1)].copy()
                history[rng.random(len(history)) < 0.2] = rng.integers(len(ids))
                histories.append(ids[history].tolist())
            writer.write_table(pa.table([pa.array(numbers), pa.array(histories, schema.field(1).type)], schema=schema))


class Run:
    """A call of ``delrec-lite score`` in a process of its own, with the memory of it and its workers.

    Args:
        bundle: Its folder.
        users: The input.
        out: The folder that is written.
        words: Further options.
        environment: Further variables.
    """

    def __init__(self, bundle: Path, users: Path, out: Path, *words: str, **environment: str) -> None:
        command = [sys.executable, "-c", COMMAND, "score", str(bundle), str(users), "--out", str(out), *words]
        self.out, self.peak, self.start = out, 0, time.monotonic()
        variables = {**os.environ, **environment}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
        )
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            processes = [self.process.pid, *children_of(self.process.pid)]
            self.peak = max(self.peak, sum(map(proportional_bytes, processes)))
            time.sleep(0.2)

    def finished_parts(self) -> int:
        """How many parts have their name."""
        return len(list(self.out.glob("part-*.parquet")))

    def wait_for_part(self) -> None:
        """Wait until a part is finished, or the command has ended."""
        while not self.finished_parts() and self.process.poll() is None:
            time.sleep(0.01)

    def end(self) -> dict[str, Any]:
        """Wait for its end: exit code, seconds, peak memory, the last line of standard error."""
        _, errors = self.process.communicate()
        self._watcher.join()
        return {
            "exit": self.process.returncode,
            "seconds": round(time.monotonic() - self.start, 2),
            "peak_mb": round(self.peak / 1e6, 1),
            "said": (errors.strip().splitlines() or [""])[-1],
            "errors": errors,
        }


def proportional_bytes(process: int) -> int:
    """Memory of a process, where pages that several processes share are divided among them; 0 if unknown."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def whole(run: Run) -> dict[str, Any]:
    """The facts of a run that must end well.

    Raises:
        DelrecError: It did not.
    """
    facts = run.end()
    if facts["exit"]:
        raise DelrecError(f"score failed: {facts['errors'][-500:]}")
    del facts["errors"], facts["exit"]
    users = json.loads((run.out / "manifest.json").read_text(encoding="utf-8"))["counts"]["users"]
    return {"users": users, **facts, "users_per_second": round(users / facts["seconds"], 1)}


def rows_in(folder: Path) -> Any:
    """All recommendations of a folder, as one Arrow table."""
    pa = arrow()
    return pa.concat_tables([pa.parquet.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def compare(bundle: Path, users: Path, recommended: Any, k: int, part_rows: int) -> dict[str, Any]:
    """The first users' rows against those of ``recommend_batch``."""
    first = next(arrow().parquet.ParquetFile(users).iter_batches(COMPARED)).to_pylist()
    histories = [[f"id:{item}" for item in row["history"]] for row in first]
    scorer = Scorer(bundle)
    together = scorer.together
    scorer.close()
    # The same groups of requests: other groups change the last bits of quantised and half-precision scores.
    parts = range(0, len(first), part_rows)
    starts = [at for part in parts for at in range(part, min(part + part_rows, len(first)), together)]
    with Recommender.load(bundle, threads=1) as recommender:
        ends = [*starts[1:], len(first)]
        groups = zip(starts, ends, strict=True)
        rankings = [r for start, end in groups for r in recommender.recommend_batch(histories[start:end], k=k)]
    expected = [
        (row["user_id"], item.rank, item.id, item.score)
        for row, ranking in zip(first, rankings, strict=True)
        for item in ranking
    ]
    got = [tuple(row.values()) for row in recommended.slice(0, len(expected)).to_pylist()]
    pairs = list(zip(expected, got, strict=True))
    return {
        "users": len(first),
        "rows": len(expected),
        "other_user_or_rank": sum(a[:2] != b[:2] for a, b in pairs),
        "other_item": sum(a[2] != b[2] for a, b in pairs),
        "largest_difference": max(abs(a[3] - b[3]) for a, b in pairs),
    }


def faults(bundle: Path, users: Path, work: Path, words: Sequence[str], expected: Any) -> dict[str, Any]:
    """What each fault leaves: how the command ended, and the rows after it was called again."""
    results: dict[str, Any] = {}

    def again(name: str, broken: Run) -> None:
        ended = broken.end()
        finished = broken.finished_parts()
        facts = {"exit": ended["exit"], "said": ended["said"], "finished_parts": finished}
        facts["traceback"] = "Traceback" in ended["errors"]
        second = Run(bundle, users, broken.out, *words)
        facts["second_exit"] = second.end()["exit"]
        facts["equal"] = bool(rows_in(broken.out).equals(expected))
        results[name] = facts
        print(name, json.dumps(facts), file=sys.stderr)

    killed = Run(bundle, users, work / "worker", *words)
    killed.wait_for_part()
    for worker in children_of(killed.process.pid)[:1]:
        os.kill(worker, signal.SIGKILL)
    again("worker killed -9", killed)
    for name, number in (("command killed -9", signal.SIGKILL), ("Ctrl-C", signal.SIGINT)):
        run = Run(bundle, users, work / str(int(number)), *words)
        run.wait_for_part()
        run.process.send_signal(number)
        again(name, run)
    if compiler() is not None:
        folder = work / "full"
        (work / "site").mkdir()
        code = FULL_DISK.format(folder=str(folder), at=5)
        (work / "site" / "sitecustomize.py").write_text(code, encoding="utf-8")
        path = os.pathsep.join([str(work / "site"), *filter(None, sys.path)])
        full = Run(bundle, users, folder, *words, LD_PRELOAD=str(build(work)), PYTHONPATH=path)
        again("full disk", full)
    return results


def parser() -> argparse.ArgumentParser:
    """Bundle and sizes."""
    options = script_parser("score", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--users", type=int, default=100_000)
    options.add_argument("-k", type=int, default=20)
    options.add_argument("--part-rows", type=int, default=0, help="users of a part; default: a fiftieth, at most 2000")
    options.add_argument("--seed", type=int, default=1)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    report: dict[str, Any] = stamp()
    report["bundle"] = {"name": bundle.name, "quant": bundle.manifest["model"]["quant"], "items": len(bundle.items.ids)}
    report["seed"], report["k"] = options.seed, options.k
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        some, all_users = work / "some.parquet", work / "all.parquet"
        write_users(bundle, some, max(1, options.users // 10), options.seed)
        write_users(bundle, all_users, options.users, options.seed)
        part_rows = options.part_rows or max(1, min(2000, options.users // 50))
        report["part_rows"] = part_rows
        words = ("-k", str(options.k), "--part-rows", str(part_rows))
        for name, source, count in (
            ("a tenth, two processes", some, 2),
            ("two processes", all_users, 2),
            ("one process", all_users, 1),
        ):
            report[name] = whole(Run(options.bundle, source, work / name, *words, "--workers", str(count)))
            print(name, json.dumps(report[name]), file=sys.stderr)
        one, two = report["one process"], report["two processes"]
        report["ratio"] = round(one["seconds"] / two["seconds"], 3)
        report["memory_ratio"] = round(two["peak_mb"] / report["a tenth, two processes"]["peak_mb"], 3)
        tenth = rows_in(work / "a tenth, two processes")
        report["same_by_one_and_two"] = bool(rows_in(work / "one process").equals(rows_in(work / "two processes")))
        report["recommend_batch"] = compare(options.bundle, some, tenth, options.k, part_rows)
        # Faults take several runs each: a tenth of the users, in ten parts at least.
        small = (
            "-k",
            str(options.k),
            "--part-rows",
            str(max(1, min(part_rows, options.users // 100))),
            "--workers",
            "2",
        )
        whole(Run(options.bundle, some, work / "unbroken", *small))
        report["faults"] = faults(options.bundle, some, work, small, rows_in(work / "unbroken"))
    write_json(report, options.out)


if __name__ == "__main__":
    main()
