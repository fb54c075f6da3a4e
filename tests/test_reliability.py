"""Commands that are killed, or whose disk is full or broken: called again they give what they give without that."""

import json
import os
import subprocess
import sys

import pytest

from delrec_lite.bench.faults import Fault, build, compiler
from delrec_lite.cli.app import _as_delrec_error
from delrec_lite.errors import StorageError

needs_compiler = pytest.mark.skipif(compiler() is None, reason="faults are injected by a C library")


def reliability(folder, *words):
    report = folder / "report.json"
    command = [sys.executable, "-m", "delrec_lite.bench.reliability", *words, "--out", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())


def assert_nothing_is_lost(report, verbs, trials):
    assert [row["verb"] for row in report["verbs"]] == list(verbs)
    for row in report["verbs"]:
        assert row["lost"] == []
        assert row["trials"] >= trials
        assert row["killed"] > 0
        assert row["failed"] > 0, "a full disk is met"
    assert report["lost"] == 0


@needs_compiler
def test_nothing_is_lost_by_pull_and_prepare(tmp_path):
    report = reliability(tmp_path, "--verb", "pull", "--verb", "prepare", "--kills", "2", "--faults", "1")
    assert_nothing_is_lost(report, ["pull", "prepare"], 4)


@needs_compiler
@pytest.mark.slow
def test_nothing_is_lost_by_training_export_and_additions(tmp_path):
    words = [word for verb in ("train", "export", "catalog add") for word in ("--verb", verb)]
    report = reliability(tmp_path, *words, "--kills", "4", "--faults", "2")
    assert_nothing_is_lost(report, ["train", "export", "catalog add"], 8)


@pytest.mark.parametrize(
    ("number", "words"), [(5, "Input/output error"), (13, "not allowed to write"), (28, "no space left")]
)
def test_an_error_of_the_system_that_safetensors_reports_is_one_of_storage(number, words):
    text = f'Error while serializing: I/O error: {os.strerror(number)} (os error {number}) at path "/runs/r/.tmpAbc123"'
    error = _as_delrec_error(RuntimeError(text))
    assert isinstance(error, StorageError)
    assert words in error.message
    assert "/runs/r/.tmpAbc123" in error.message


WRITE = """
import errno, os, sys
from pathlib import Path
from delrec_lite.bench.faults import Fault, arm, changes
folder = Path(sys.argv[1])
arm(folder, Fault(sys.argv[2], int(sys.argv[3])))
for name in "abc":
    try:
        (folder / name).write_text(name)  # it is created and written; what failed is tried once more
    except OSError as error:
        print(name, errno.errorcode[error.errno])
(folder.parent / "beside").write_text("not counted")
print(changes())
"""


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "printed", "code"),
    [
        (Fault(), ["6"], 0),
        (Fault("EIO", 4), ["b EIO", "7"], 0),
        (Fault("ENOSPC", 4), ["b ENOSPC", "c ENOSPC", "6"], 0),
        (Fault("kill", 3), [], -9),
    ],
)
def test_a_fault_comes_at_the_change_that_is_named(tmp_path, fault, printed, code):
    (tmp_path / "watched").mkdir()
    library = build(tmp_path)
    command = [sys.executable, "-c", WRITE, str(tmp_path / "watched"), fault.kind, str(fault.at)]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.returncode) == (printed, code), done.stderr
    assert (tmp_path / "watched" / "a").read_text() == "a"
