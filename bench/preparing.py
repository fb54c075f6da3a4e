"""What preparing a large log costs: ``python -m delrec_lite.bench.preparing --work FOLDER --out FILE``.

Makes a log of ``--rows`` interactions (default two million) and its item list as CSV, a share ``--bad`` of the rows
(default none) malformed in all the ways that ``prepare`` knows, and runs ``delrec-lite prepare`` on them in a new
process: once, or, with malformed rows, once to refuse and once to drop them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.files import check_folder
from delrec_lite.provenance import stamp

ROWS = 2_000_000
PER_USER, PER_ITEM = 40, 100  # interactions on average
FEWEST_ITEMS = 500


def write_log(folder: Path, rows: int, bad: float = 0.0, seed: int = 1) -> tuple[Path, Path]:
    """A log and an item list as CSV: users and items as uneven as in a real log, rows in the order of time.

    Args:
        folder: Where ``log.csv`` and ``items.csv`` go.
        rows: Interactions.
        bad: Share of them that are malformed: a field too many or too few, an empty id, a time that does not read.
        seed: Of all random numbers.
    """
    rng = np.random.default_rng(seed)
    users, items = max(1, rows // PER_USER), max(FEWEST_ITEMS, rows // PER_ITEM)
    of_user = rng.permutation(users)[(rng.random(rows) ** 1.5 * users).astype(np.int64)]
    of_item = (rng.random(rows) ** 2.5 * items).astype(np.int64)
    times = 1_600_000_000 + np.sort(rng.integers(0, 10**8, rows))
    kinds = np.where(rng.random(rows) < bad, rng.integers(1, 6, rows), 0)
    layouts = (
        "customer-{},sku-{},{}\n",
        "customer-{},sku-{},{},more\n",
        "customer-{},sku-{}\n",
        ",sku-{1},{2}\n",
        "customer-{0},,{2}\n",
        "customer-{0},sku-{1},yesterday\n",
    )
    folder.mkdir(parents=True, exist_ok=True)
    log, titles = folder / "log.csv", folder / "items.csv"
    with log.open("w", encoding="utf-8") as file:
        file.write("uid,sku,ts\n")
        for row in zip(kinds.tolist(), of_user.tolist(), of_item.tolist(), times.tolist(), strict=True):
            file.write(layouts[row[0]].format(*row[1:]))
    with titles.open("w", encoding="utf-8") as file:
        file.write("sku,name\n")
        file.writelines(f'sku-{n},"Article {n}, kind {n % 97}"\n' for n in range(items))
    return log, titles


def measure_prepare(log: Path, titles: Path, out: Path, policy: str) -> dict[str, Any]:
    """Run the command: its exit code, elapsed and processor seconds, peak memory in bytes, and its result."""
    columns = "user=uid,item=sku,time=ts,title=name"
    command = [sys.executable, "-m", "delrec_lite", "prepare", "synthetic", "--interactions", str(log)]
    command += ["--items", str(titles), "--columns", columns, "--out", str(out), "--on-bad-row", policy, "--json"]
    output = out.with_name("output.json")
    to_file = (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    start = time.monotonic()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=[to_file])
    _, status, usage = os.wait4(child, 0)
    return {
        "on_bad_row": policy,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "result": json.loads(output.read_text(encoding="utf-8") or "{}"),
    }


def parser() -> argparse.ArgumentParser:
    """Work folder and size."""
    options = script_parser("preparing", __doc__)
    options.add_argument("--work", type=Path, required=True, help="folder for the log and what is prepared from it")
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--bad", type=float, default=0.0, help="share of malformed rows")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the log, prepare it and write what it cost."""
    options = parser().parse_args(arguments)
    check_folder(options.work, "work folder", lambda _: None)
    started = stamp()
    log, titles = write_log(options.work, options.rows, options.bad)
    policies = ("refuse", "drop") if options.bad else ("refuse",)
    runs = [measure_prepare(log, titles, options.work / "prepared", policy) for policy in policies]
    size = {"rows": options.rows, "bad": options.bad, "bytes": log.stat().st_size}
    write_json({**started, **size, "runs": runs}, options.out)


if __name__ == "__main__":
    main()
