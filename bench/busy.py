"""What polite threads do: ``python -m delrec_lite.bench.busy BUNDLE --out FILE``.

Processes answer the same requests in turn, each with a setting of its threads, alone and beside busy processes. Every
round starts new ones, in another order.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from delrec_lite import spinning
from delrec_lite.bench.busy_processes import BusyProcesses
from delrec_lite.bench.configurations import facts_of
from delrec_lite.bench.report import latency_summary
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.timer import WARM_UP
from delrec_lite.bench.workloads import Request, ask, requests_of
from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import AUTO

WORKLOADS = ("cold", "step")
# The program's own setting, in which waiting threads spin for a bounded while and there are as many as free cores; the
# first of both alone; the libraries' defaults. A number is a GOMP_SPINCOUNT, and a hundredth of it ONNX Runtime's
# microseconds.
POLITE = "polite"
SETTINGS = (POLITE, "bounded", "default")
_CHILD = "from delrec_lite.bench.busy import answer; answer()"


class Answering:
    """A process that answers requests, with a setting such as those of ``SETTINGS``.

    Args:
        job: ``bundle``, ``engine``, ``quant``, ``threads`` and ``setting``.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=pipe, stdout=pipe, text=True)
        self.setting: str = job["setting"]
        try:
            self.threads = int(self._send(job)["threads"])
        except BaseException:
            self._process.kill()
            raise

    def ask(self, request: Request) -> float:
        """Milliseconds of one request."""
        return float(self._send(asdict(request))["ms"])

    def _send(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not reply:
            raise DelrecError("a process that answers has ended", "try `delrec-lite recommend` with this bundle")
        return reply

    def __enter__(self) -> "Answering":
        """Running since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def answer() -> None:
    """The process: a job from standard input, then requests until it ends."""
    job = json.loads(sys.stdin.readline())
    if job["setting"] == "default":
        spinning.OPENMP.clear()
        spinning.ONNX_RUNTIME.clear()
    elif job["setting"] not in SETTINGS:
        count = int(job["setting"])
        spinning.OPENMP["GOMP_SPINCOUNT"] = str(count)
        spinning.ONNX_RUNTIME["session.intra_op.spin_duration_us"] = str(count // 100)
    from delrec_lite.machine import threads_for
    from delrec_lite.runtime.recommender import Recommender

    threads = threads_for(job["threads"])
    fixed = None if job["setting"] == POLITE else threads
    with Recommender.load(job["bundle"], fixed, engine=job["engine"], quant=job["quant"]) as recommender:
        print(json.dumps({"threads": threads}), flush=True)
        for line in sys.stdin:
            print(json.dumps({"ms": ask(recommender, Request(**json.loads(line))).ms}), flush=True)


def measure_busy(
    bundle: Path,
    counts: Sequence[int] = (0, 1, 2),
    rounds: int = 6,
    repeats: int = 10,
    engine: str = AUTO,
    quant: str | None = None,
    threads: int | None = None,
    settings: Sequence[str] = SETTINGS,
) -> dict[str, Any]:
    """Time every setting beside each number of busy processes.

    Args:
        bundle: Its stored requests are asked.
        counts: Numbers of busy processes.
        rounds: Each starts new processes.
        repeats: Timed requests of each kind in a round.
        engine: Name of an engine.
        quant: In a bundle with several; None: its first.
        threads: Of the engine, at most; None: the cores allowed.
        settings: See ``SETTINGS``.

    Raises:
        UsageError: A setting of the user's own, which would be used in place of all.
    """
    if own := spinning.users_setting():
        names = ", ".join(own)
        raise UsageError(f"{names} set in the environment would decide instead", f"unset {names.replace(',', '')}")
    opened = Bundle.open(bundle, quant=quant)
    requests = requests_of(opened)
    samples = {(s, w, n): list[float]() for w in WORKLOADS for n in counts for s in settings}
    job = {"bundle": str(bundle), "engine": engine, "quant": quant, "threads": threads}
    report = stamp()
    with BusyProcesses(max(counts)) as others:
        for turn in range(rounds):
            with ExitStack() as stack:
                others.run(0)
                first = turn % len(settings)
                ordered = [*settings[first:], *settings[:first]]
                answering = [stack.enter_context(Answering({**job, "setting": s})) for s in ordered]
                for count in counts:
                    others.run(count)
                    # In blocks, since a process is itself a busy one for the next.
                    for process in answering:
                        for n in range(-WARM_UP, repeats):
                            for workload in WORKLOADS:
                                ms = process.ask(requests.of(workload, turn * repeats + n))
                                if n >= 0:
                                    samples[process.setting, workload, count].append(round(ms, 3))
    rows = [
        {"setting": s, "workload": w, "busy": n, "ms": latency_summary(values), "samples_ms": values}
        for (s, w, n), values in samples.items()
    ]
    return {
        **report,
        "bundle": facts_of(opened),
        "engine": engine,
        "threads": answering[0].threads,
        "rounds": rounds,
        "bounded": {**spinning.OPENMP, **spinning.ONNX_RUNTIME},
        "rows": rows,
    }


def summary(report: dict[str, Any]) -> str:
    """Medians as a table: a line for each workload and number of busy processes."""
    p50 = {(r["setting"], r["workload"], r["busy"]): r["ms"]["p50"] for r in report["rows"]}
    settings = list(dict.fromkeys(r["setting"] for r in report["rows"]))
    lines = ["workload  busy processes  " + "  ".join(f"{setting} ms" for setting in settings)]
    for workload, count in dict.fromkeys((r["workload"], r["busy"]) for r in report["rows"]):
        figures = "  ".join(f"{p50[setting, workload, count]:>{len(setting) + 3}.1f}" for setting in settings)
        lines.append(f"{workload:<8}  {count:>14}  {figures}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Bundle, busy processes and repeats."""
    options = script_parser("busy", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--busy", default="0,1,2", help="numbers of busy processes, separated by commas")
    options.add_argument("--rounds", type=int, default=6, help="each starts new processes")
    options.add_argument("--repeats", type=int, default=10, help="timed requests of each kind in a round")
    options.add_argument("--engine", default=AUTO)
    options.add_argument("--quant", help="in a bundle with several; default: its first")
    options.add_argument("--threads", type=int, help="default: the cores allowed")
    options.add_argument("--settings", default=",".join(SETTINGS), help="polite, bounded, default, or a GOMP_SPINCOUNT")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    options = parser().parse_args(arguments)
    counts = [int(part) for part in options.busy.split(",")]
    settings = options.settings.split(",")
    report = measure_busy(
        options.bundle,
        counts,
        options.rounds,
        options.repeats,
        options.engine,
        options.quant,
        options.threads,
        settings,
    )
    write_json(report, options.out)
    print(summary(report), file=sys.stderr)


if __name__ == "__main__":
    main()
