"""Runs of `score` that are killed, interrupted or find a full disk: nothing is lost, nothing comes twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from delrec_lite.errors import BundleError, DelrecError, StorageError, UsageError
from delrec_lite.files import writing
from delrec_lite.scoring import local
from delrec_lite.scoring.run import Options, score
from tests.bundles import tiny_bundle
from tests.command import PROGRAM, run
from tests.scoring import HISTORIES, SMALL, assert_same, expected_rows, rows_of, table_file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("scored")).bundle.folder


@pytest.fixture(scope="module")
def expected(bundle):
    return expected_rows(bundle)


@pytest.fixture
def users(tmp_path):
    return table_file(tmp_path / "users.parquet", HISTORIES)


def test_a_folder_of_another_run_or_of_something_else_is_refused(bundle, users, tmp_path):
    out = tmp_path / "recs"
    score(bundle, users, out, SMALL, workers=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = table_file(tmp_path / "other.parquet", {"a": ["i1"]})
    another = tiny_bundle(tmp_path, seed=1, name="another").bundle.folder
    for arguments, words in (
        ((bundle, other, out, SMALL), "another input"),
        ((another, users, out, SMALL), "another bundle"),
        ((bundle, users, out, Options(k=5, part_users=8)), r"other options \(k\)"),
        ((bundle, users, out, Options(k=4, part_users=9)), r"other options \(part-rows\)"),
        ((bundle, users, bundle, SMALL), "no folder of recommendations"),
    ):
        with pytest.raises(StorageError, match=words):
            score(*arguments, workers=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.txt").write_text("x")
    with pytest.raises(StorageError, match="mine.txt"):
        score(bundle, users, out, SMALL, workers=1)


def test_a_moved_input_is_the_same_run_and_a_removed_part_is_made_again(bundle, users, tmp_path, monkeypatch):
    out = tmp_path / "recs"
    score(bundle, users, out, SMALL, workers=1)
    rows, old = rows_of(out), (out / "part-00000.parquet").stat().st_mtime_ns
    moved = shutil.move(users, tmp_path / "moved.parquet")
    (out / "part-00001.parquet").unlink()
    asked = []
    monkeypatch.setitem(score.__globals__["ENGINES"], "local", lambda *a: asked.append(a[3]) or local.score_local(*a))
    score(bundle, str(moved), out, SMALL, workers=1)
    score(bundle, str(moved), out, SMALL, workers=1)
    assert asked == [["part-00001.parquet"]]
    assert rows_of(out) == rows
    assert (out / "part-00000.parquet").stat().st_mtime_ns == old


def test_a_damaged_part_and_lost_work_are_made_again(bundle, users, tmp_path):
    out = tmp_path / "recs"
    score(bundle, users, out, SMALL, workers=1)
    rows = rows_of(out)
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    (out / ".work").mkdir()
    manifest = json.loads((out / "manifest.json").read_text())
    for state in ("done", "running"):
        (out / "manifest.json").write_text(json.dumps({**manifest, "state": state}))
        score(bundle, users, out, SMALL, workers=1)
        assert rows_of(out) == rows


def test_recommendations_do_not_go_among_the_users(bundle, tmp_path):
    days = tmp_path / "days"
    days.mkdir()
    table_file(days / "a.parquet", HISTORIES)
    for source, out in ((days, days / "recs"), (days / "*.parquet", days), (days, days)):
        with pytest.raises((UsageError, StorageError)):
            score(bundle, str(source), out, SMALL, workers=1)
    assert [path.name for path in days.iterdir()] == ["a.parquet"]
    score(bundle, str(days), days / "_recs", SMALL, workers=1)
    score(bundle, str(days), days / "_recs", SMALL, workers=1)


def test_two_processes_do_not_write_one_folder(bundle, users, tmp_path):
    with (
        writing(tmp_path / "recs", "folder", lambda folder: None),
        pytest.raises(StorageError, match="another process"),
    ):
        score(bundle, users, tmp_path / "recs", SMALL, workers=1)


class Killer:
    """Kills the workers of a run: the first so many of them, when they have scored some users."""

    def __init__(self, monkeypatch, most):
        self.kills = 0
        killer, score_part = self, local.Worker.score

        def score_and_kill(worker, part):
            score_part(worker, part)
            if killer.kills < most:
                killer.kills += 1
                worker.process.send_signal(signal.SIGKILL)

        monkeypatch.setattr(local.Worker, "score", score_and_kill)


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_twice(bundle, users, expected, tmp_path, monkeypatch):
    killer = Killer(monkeypatch, 2)
    score(bundle, users, tmp_path / "recs", SMALL, workers=2)
    assert killer.kills == 2
    assert_same(rows_of(tmp_path / "recs"), expected)


def test_a_part_that_kills_its_workers_ends_the_run_which_goes_on_later(bundle, users, expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Killer(patch, 1000)
        with pytest.raises(DelrecError, match="ended by SIGKILL at part-00000.parquet, as 2 before it"):
            score(bundle, users, tmp_path / "recs", SMALL, workers=1)
    assert json.loads((tmp_path / "recs" / "manifest.json").read_text())["state"] == "running"
    score(bundle, users, tmp_path / "recs", SMALL, workers=1)
    assert_same(rows_of(tmp_path / "recs"), expected)


def test_a_bundle_that_changes_between_workers_ends_the_run(bundle, users, tmp_path, monkeypatch):
    changing = shutil.copytree(bundle, tmp_path / "changing.delrec")
    score_part = local.Worker.score

    def change(worker, part):
        manifest = changing / "manifest.json"
        manifest.write_text(manifest.read_text() + " ")
        score_part(worker, part)

    monkeypatch.setattr(local.Worker, "score", change)
    with pytest.raises(BundleError, match="another one than this run began with"):
        score(changing, users, tmp_path / "recs", SMALL, workers=1)


def test_a_full_disk_is_one_line_and_the_run_goes_on(bundle, users, expected, tmp_path, monkeypatch):
    out, full = tmp_path / "recs", tmp_path / "full"
    full.mkdir()
    (full / "sitecustomize.py").write_text(FULL_DISK)
    monkeypatch.syspath_prepend(full)  # the workers take sys.path over; python reads the file from PYTHONPATH
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(full), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(StorageError, match=r"no space left on the disk while writing .*part-00001.parquet"):
        score(bundle, users, out, SMALL, workers=1)
    monkeypatch.delenv("PYTHONPATH")
    assert sorted(path.name for path in out.glob("part-*")) == ["part-00000.parquet"]
    score(bundle, users, out, SMALL, workers=1)
    assert_same(rows_of(out), expected)


FULL_DISK = """
import errno, pathlib
write = pathlib.Path.write_bytes
def full(path, data):
    if "part-00001.parquet" in path.name:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(path, data)
pathlib.Path.write_bytes = full
"""


def test_the_command_is_interrupted_in_one_line_and_goes_on(bundle, expected, tmp_path):
    many = {f"{n:02d}{u}": h for n in range(60) for u, h in HISTORIES.items()}
    users = table_file(tmp_path / "users.parquet", many)
    words = ["score", bundle, users, "--out", tmp_path / "recs", "-k", "4", "--part-rows", "20", "--workers", "1"]
    process = subprocess.Popen([PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list((tmp_path / "recs").glob("part-*.parquet")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert "parts are finished already" in done.stderr
    assert json.loads(done.stdout)["counts"]["users"] == len(many)
    rows = rows_of(tmp_path / "recs")
    assert_same([(row[0][2:], *row[1:]) for row in rows], expected * 60)


PARENT = """
import queue, sys
from delrec_lite.scoring.local import Worker
job = {"scorer": {"bundle": "."}, "source": ".", "target": ".", "debug": False}
print(Worker(job, queue.SimpleQueue()).process.pid, flush=True)
sys.stdin.read()
"""


def test_workers_end_with_their_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        worker = Path("/proc") / parent.stdout.readline().decode().strip() / "cmdline"
        assert is_running(worker)
        parent.kill()
    until = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(command_line):
    with suppress(OSError):
        return bool(command_line.read_bytes())
    return False
