"""Busy processes beside what is timed: they compute, they end in every case, and reports name their number."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delrec_lite.bench import busy, report
from delrec_lite.bench.busy_processes import BusyProcesses
from delrec_lite.bench.plan import Plan
from delrec_lite.bench.runner import bench
from delrec_lite.errors import UsageError
from delrec_lite.spinning import USER

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def ticks(pid):
    """Processor time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def ended(pids):
    def lives(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return wait_until(lambda: not any(map(lives, pids)))


@LINUX
def test_as_many_compute_as_are_asked_for_and_all_end():
    with BusyProcesses(2) as others:
        first, second = others.pids
        others.run(1)
        idle = ticks(second)
        start = ticks(first)
        assert wait_until(lambda: ticks(first) >= start + 20)
        assert ticks(second) <= idle + 1
        others.run(0)
        start = ticks(first)
        time.sleep(0.3)
        assert ticks(first) <= start + 2
    assert ended([first, second])


@LINUX
def test_they_end_after_an_error():
    pids = []

    def interrupted():
        with BusyProcesses(2) as others:
            others.run(2)
            pids.extend(others.pids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert ended(pids)


@LINUX
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_program(how):
    """Ctrl-C goes to the whole group; a killed program cannot end them itself."""
    code = (
        # A background job of a shell has inherited that SIGINT is ignored.
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from delrec_lite.bench.busy_processes import BusyProcesses\n"
        "with BusyProcesses(2) as others:\n    others.run(2)\n    print(*others.pids, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        if how == signal.SIGINT:
            os.killpg(program.pid, how)
        else:
            program.kill()
        errors = program.stderr.read()
    assert len(pids) == 2
    assert ended(pids)
    assert errors.count("Traceback") == (how == signal.SIGINT), "of the program alone"


def test_every_number_is_timed_in_turn_and_stands_in_table_json_and_csv(tiny_bundle, tmp_path, monkeypatch):
    numbers = []
    monkeypatch.setattr(BusyProcesses, "run", lambda _, count: numbers.append(count))
    memory = {"peak_rss_bytes": 2_000_000}
    plan = Plan(["cold"], [1], repeats=2, busy=(0, 1, 2))
    timed = bench([tiny_bundle], plan, probe=lambda _: memory)
    assert [r.busy_processes for r in timed.results] == [0, 1, 2]
    assert all(len(r.samples_ms) == 2 for r in timed.results)
    assert numbers == [0, 1, 2] * 4 + [0], "two rounds of warm-up, two timed; memory is measured alone"
    report.write_report(timed, tmp_path / "r.json")
    again = report.read_report(tmp_path / "r.json")
    assert again == timed
    assert [ratio.busy_processes for ratio in report.compare_reports(again, timed)] == [0, 1, 2]
    rows, header = report.table_rows(timed)
    assert [row[header.index("busy processes")] for row in rows] == ["0", "1", "2"]
    assert [line["busy_processes"] for line in csv.DictReader(io.StringIO(report.as_csv(timed)))] == ["0", "1", "2"]


def test_a_report_without_busy_processes_is_read_and_has_no_column(tiny_bundle, tmp_path):
    timed = bench([tiny_bundle], Plan(["cold"], [1], repeats=1), probe=lambda _: {"peak_rss_bytes": 1})
    rows, header = report.table_rows(timed)
    assert "busy processes" not in header
    assert len(rows[0]) == len(header)
    fields = timed.dump()
    for result in fields["results"]:
        del result["busy_processes"]
    (tmp_path / "old.json").write_text(json.dumps(fields))
    assert report.read_report(tmp_path / "old.json") == timed


def test_a_negative_number_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="at least 0"):
        bench([tiny_bundle], Plan(["cold"], [1], busy=(0, -1)))


def test_the_settings_are_compared_in_new_processes(tiny_bundle, tmp_path, monkeypatch, capfd):
    for name in USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    out = tmp_path / "busy.json"
    busy.main(
        [str(tiny_bundle), "--busy", "0,1", "--rounds", "2", "--repeats", "2", "--threads", "1", "--out", str(out)]
    )
    made = json.loads(out.read_text())
    rows = made["rows"]
    assert {(r["setting"], r["workload"], r["busy"]) for r in rows} == {
        (setting, workload, n) for setting in busy.SETTINGS for workload in ("cold", "step") for n in (0, 1)
    }
    assert all(len(r["samples_ms"]) == 4 for r in rows)
    assert made["bounded"]["GOMP_SPINCOUNT"] == "10000"
    errors = capfd.readouterr().err
    assert "busy processes" in errors
    if sys.platform == "linux":
        counts = [line.split("'")[1] for line in errors.splitlines() if "GOMP_SPINCOUNT" in line]
        assert set(counts) == {"10000", "300000"}, "the second is what GNU OpenMP takes without a setting"


def test_a_users_setting_is_refused_because_it_would_decide(tiny_bundle, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(UsageError, match="OMP_WAIT_POLICY"):
        busy.measure_busy(tiny_bundle)
