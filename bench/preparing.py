"""What preparing a large log costs: ``python -m delrec_lite.bench.preparing WORK [ROWS [BAD]]``.

Makes a log of ``ROWS`` interactions (default two million) and its item list as CSV, a share ``BAD`` of the rows
(default none) malformed in all the ways that ``prepare`` knows, and runs ``delrec-lite prepare`` on them in a process
of its own: once, or, with malformed rows, once to refuse and once to drop them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.provenance import load_average, machine

ROWS = 2_000_000
A_USER, AN_ITEM = 40, 100  # interactions each has on average
FEWEST_ITEMS = 500


def write_log(folder: Path, rows: int, bad: float = 0.0, seed: int = 1) -> tuple[Path, Path]:
    """A log and an item list, CSV: users and items as uneven as in a real one, the log in the order of time.

    Args:
        folder: Where ``log.csv`` and ``items.csv`` go.
        rows: Interactions.
        bad: Share of them that are malformed: a field too many or too few, an empty id, a time that is none.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    users, items = max(1, rows // A_USER), max(FEWEST_ITEMS, rows // AN_ITEM)
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


def prepare(log: Path, titles: Path, out: Path, policy: str) -> dict[str, Any]:
    """Run the command: its exit code, seconds by the clock and of the processor, most memory in bytes, result."""
    columns = "user=uid,item=sku,time=ts,title=name"
    command = [sys.executable, "-m", "delrec_lite", "prepare", "made", "--interactions", str(log)]
    command += ["--items", str(titles), "--columns", columns, "--out", str(out), "--on-bad-row", policy, "--json"]
    said = out.with_name("said.json")
    kept = (os.POSIX_SPAWN_OPEN, 1, str(said), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    start = time.monotonic()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=[kept])
    _, status, usage = os.wait4(child, 0)
    return {
        "on_bad_row": policy,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "result": json.loads(said.read_text(encoding="utf-8") or "{}"),
    }


def main() -> None:
    """Make the log, prepare it, print what it cost as JSON."""
    work = Path(sys.argv[1])
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    bad = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    log, titles = write_log(work, rows, bad)
    before = load_average()
    found = [prepare(log, titles, work / "made", policy) for policy in (("refuse", "drop") if bad else ("refuse",))]
    about = {"rows": rows, "bad": bad, "bytes": log.stat().st_size, "load_before": before, "machine": machine()}
    print(json.dumps({**about, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
