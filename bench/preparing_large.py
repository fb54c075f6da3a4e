"""Preparing a log larger than memory: ``python -m delrec_lite.bench.preparing_large --work FOLDER --out FILE``.

Makes logs of ``--rows`` interactions (default one, ten and a hundred million) in a folder of Parquet files, users and
items as uneven as in a real log, and runs ``delrec-lite prepare --memory 2GB --test-users 10000`` on each in a new
process, whose memory is that of all its processes at once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from delrec_lite.bench.process_tree import descendants_of
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.data.memory import parse_memory
from delrec_lite.files import check_folder
from delrec_lite.provenance import stamp

ROWS = (1_000_000, 10_000_000, 100_000_000)
PER_USER = 50
ITEMS = 100_000
FILE_ROWS = 2_000_000
# A row on its way: read as three columns of 8 bytes; written with its number to the table, read, sorted and spilled
# once (user, time, number, item); written in order, read and written by the k-core, read twice for items and times.
BYTES_READ, BYTES_SORTED, BYTES_PASSED = 24, 2 * 40 + 2 * 32, 4 * 12 + 2 * 4


def write_log(folder: Path, rows: int, seed: int = 1) -> tuple[Path, Path]:
    """A folder of Parquet files with a log by time, ``rows`` / 50 users and Zipf's items; and an item list."""
    rng = np.random.default_rng(seed)
    log, titles = folder / "log", folder / "items.parquet"
    log.mkdir(parents=True)
    users, items = max(100, rows // PER_USER), min(ITEMS, max(500, rows // 100))
    weights = np.cumsum(1 / np.arange(1, items + 1))
    for number, at in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - at)
        columns = {
            "user_id": (rng.random(count) ** 1.5 * users).astype(np.int64),
            "item_id": np.searchsorted(weights, rng.random(count) * weights[-1]),
            "timestamp": 1_600_000_000 + (at + np.sort(rng.integers(0, count, count))) * 10**8 // rows,
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), log / f"part-{number:04}.parquet")
    names = [f"Article {n}, kind {n % 97}" for n in range(items)]
    pyarrow.parquet.write_table(pyarrow.table({"item_id": np.arange(items), "title": names}), titles)
    return log, titles


def measure(log: Path, titles: Path, out: Path, memory: str, test_users: int) -> dict[str, Any]:
    """Run the command: exit code, seconds, processor seconds, and peak memory in bytes of all its processes."""
    command = [sys.executable, "-m", "delrec_lite", "prepare", "large", "--interactions", str(log), "--json"]
    command += ["--items", str(titles), "--out", str(out), "--memory", memory, "--test-users", str(test_users)]
    start, peaks, lines = time.monotonic(), [0], []
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watcher = threading.Thread(target=_watch, args=(child.pid, peaks), daemon=True)
    watcher.start()
    assert child.stderr is not None
    for line in child.stderr:
        lines.append({"after": round(time.monotonic() - start, 1), "said": line.strip()})
    _, status, usage = os.wait4(child.pid, 0)
    watcher.join()
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": max(peaks[0], usage.ru_maxrss * 1024),
        "bytes_read_from_disk": usage.ru_inblock * 512,
        "bytes_written_to_disk": usage.ru_oublock * 512,
        "stages": lines,
    }


def _watch(process: int, peaks: list[int]) -> None:
    """Note the resident memory of a process and its children, while it runs."""
    while (together := sum(map(_resident, [process, *descendants_of(process)]))) > 0:
        peaks[0] = max(peaks[0], together)
        time.sleep(0.05)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def parser() -> argparse.ArgumentParser:
    """Work folder and sizes."""
    options = script_parser("preparing_large", __doc__)
    options.add_argument("--work", type=Path, required=True, help="folder for the logs and what is prepared from them")
    options.add_argument("--rows", default=",".join(map(str, ROWS)), help="interactions, separated by commas")
    options.add_argument("--memory", default="2GB", help="given to prepare")
    options.add_argument("--test-users", type=int, default=10_000, help="given to prepare")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Make each log, prepare it and write what it cost."""
    options = parser().parse_args(arguments)
    check_folder(options.work, "work folder", lambda _: None)
    parse_memory(options.memory)
    report = {**stamp(), "memory": options.memory, "test_users": options.test_users, "runs": []}
    for rows in map(int, options.rows.split(",")):
        log, titles = write_log(options.work / str(rows), rows)
        size = sum(path.stat().st_size for path in log.iterdir())
        must_move = {"read": BYTES_READ * rows, "sorted": BYTES_SORTED * rows, "passed_over": BYTES_PASSED * rows}
        cost = measure(log, titles, options.work / f"{rows}-prepared", options.memory, options.test_users)
        report["runs"].append({"rows": rows, "bytes": size, "bytes_that_must_move": must_move, **cost})
        shutil.rmtree(options.work / str(rows))
        write_json(report, options.out)


if __name__ == "__main__":
    main()
