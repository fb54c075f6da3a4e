"""The commands pull, prepare and doctor, and what ``delrec_lite.machine`` reads."""

import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from delrec_lite import doctor as doctor_room
from delrec_lite import machine
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import DataError, FetchError, UsageError
from delrec_lite.hub.cache import Pulled
from tests.logs import write_recbole


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    for verb in ("pull", "prepare", "doctor"):
        module = importlib.import_module(f"delrec_lite.cli.{verb}")
        app.command(verb, epilog=module.EXAMPLE)(getattr(module, verb))

    def call(*args, fails=None):
        done = CliRunner().invoke(app, list(map(str, args)))
        if fails:
            assert isinstance(done.exception, fails), done.output
        else:
            assert done.exit_code == 0, (done.output, done.exception)
        return done

    return call


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """`pull` finds a small log in the layout of the real one."""
    folder = write_recbole(tmp_path / "src")

    def fake(name, *_):
        return Pulled(name, folder, "a mirror", False, {"x.inter": "0" * 64}, "terms", 12)

    monkeypatch.setattr("delrec_lite.hub.pull.pull", fake)
    return folder


def test_pull_prints_one_json_document(run, pulled):
    data = json.loads(run("pull", "--json").stdout)
    assert [d["name"] for d in data] == ["smollm2-135m-instruct", "ml-100k"]
    assert {"folder", "mirror", "cached", "files", "licence", "bytes"} <= set(data[0])
    assert "terms" in run("pull", "ml-100k").stdout


def test_pull_refuses_an_unknown_name_before_it_fetches_any(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path))
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    run("pull", "ml-100k", "nonsense", fails=UsageError)
    run("pull", "ml-100k", fails=FetchError)
    assert list(tmp_path.iterdir()) == []


def test_prepare_pulls_and_writes_a_data_set(run, pulled, tmp_path):
    out = tmp_path / "out"
    done = run("prepare", "ml-100k", "--out", out, "--k-core", 2, "--candidates", 3, "--json")
    data = json.loads(done.stdout)
    assert (data["users"], data["items"], data["interactions"]) == (12, 8, 72)
    assert load_dataset(out).fingerprint == data["fingerprint"]
    repeated = run("prepare", "--out", out, "--k-core", 2, "--candidates", 3, "--quiet")
    assert (repeated.stdout, repeated.stderr) == ("", "")


def test_prepare_reads_a_log_with_other_column_names(run, tmp_path):
    rows = "".join(f"{user},{item},{user * 10 + item}\n" for user in range(9) for item in range(4 + user % 2))
    (tmp_path / "log.csv").write_text("uid,sku,ts\n" + rows)
    (tmp_path / "items.csv").write_text("sku,title\n" + "".join(f"{n},Lamp {n}\n" for n in range(9)))
    command = ["prepare", "shop", "--interactions", tmp_path / "log.csv", "--columns", "user=uid,item=sku,time=ts"]
    run(*command, fails=UsageError)
    command += ["--items", tmp_path / "items.csv", "--k-core", 1, "--out", tmp_path / "out"]
    (tmp_path / "log.csv").open("a").write("x,5,1\nx,6,2\nx,7,3\n")
    run(*command, "--candidates", 4)
    assert load_dataset(tmp_path / "out").catalog.titles[0] == "Lamp 0"


def test_prepare_drops_and_counts_malformed_rows_on_request(run, tmp_path):
    rows = "".join(f"{user},{(user + n) % 9},{n}\n" for user in range(10) for n in range(4))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows + "1,2\n3,99,5\n")
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{n},Lamp {n}\n" for n in range(9)))
    command = ["prepare", "shop", "--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv"]
    command += ["--k-core", 1, "--candidates", 2, "--out", tmp_path / "out"]
    refused = run(*command, fails=DataError)
    assert "row 42: 2 fields instead of 3" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    run(*command, "--on-bad-row", "skip", fails=UsageError)
    dropped = json.loads(run(*command, "--on-bad-row", "drop", "--json").stdout)["dropped"]
    assert [(f["malformed"], f["first"]) for f in dropped["files"]] == [(1, [[42, "2 fields instead of 3"]])]
    assert dropped["untitled"] == 1
    run(*command, "--on-bad-row", "drop", "--split", "random", fails=UsageError)


def test_prepare_refuses_a_model(run):
    run("prepare", "smollm2-135m-instruct", fails=UsageError)


def test_doctor_names_missing_packages_and_the_command_that_installs_them(run, tmp_path, monkeypatch):
    real = importlib.metadata.version

    def without_torch(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "numpy" else real(name)

    monkeypatch.setattr(doctor_room.importlib.metadata, "version", without_torch)
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path))
    report = json.loads(run("doctor", "--json").stdout)
    checks = {c["name"]: c for c in report["checks"]}
    assert checks["torch"]["state"] == "missing"
    assert checks["torch"]["fix"].startswith(f"{sys.executable} -m pip install 'torch>=")
    assert checks["numpy"]["state"] == "warning"
    assert "numpy>=" in checks["numpy"]["fix"]
    assert checks["rich"]["state"] == "ok"
    assert checks["ml-100k"]["fix"] == "delrec-lite pull ml-100k"
    assert "pytest" not in checks
    assert report["machine"]["cores"] >= 1
    human = run("doctor")
    assert "missing" in human.stdout
    assert checks["torch"]["fix"].split()[-1] in human.stderr


def test_doctor_finds_an_unwritable_cache(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checks = {c.name: c for c in doctor_room.examine(tmp_path / "file" / "cache").checks}
    assert checks["cache"].state == "warning"
    assert "DELREC_CACHE" in checks["cache"].fix


def test_the_verbs_and_doctor_itself_import_nothing_heavy():
    code = (
        "import sys, delrec_lite.cli.pull, delrec_lite.cli.prepare, delrec_lite.cli.doctor as d; d.doctor(True, True);"
        "heavy = {'torch', 'transformers', 'numpy', 'llama_cpp', 'pyarrow', 'pydantic'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def group(root, files, cgroup):
    for name, text in {**files, "proc/self/cgroup": cgroup}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("files", "cgroup", "cores"),
    [
        ({"sys/fs/cgroup/cpu.max": "250000 100000"}, "0::/", 2),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, "0::/", 16),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, "0::/", 1),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "400000 100000"}, "0::/a/b", 4),
        ({"sys/fs/cgroup/cpu.max": "300000 100000"}, "0::/on/the/host", 3),
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_period_us": "100000",
            },
            "5:cpu,cpuacct:/d",
            6,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 16),
        ({}, "", 16),
    ],
)
def test_cores_allowed_heeds_the_quota_of_control_groups(tmp_path, sixteen_cores, files, cgroup, cores):
    assert machine.cores_allowed(group(tmp_path, files, cgroup)) == cores


def test_memory_limit_heeds_control_groups(tmp_path):
    installed = machine.memory_limit_bytes(tmp_path)
    root = group(tmp_path, {"sys/fs/cgroup/a/memory.max": "1048576", "sys/fs/cgroup/memory.max": "max"}, "0::/a")
    assert machine.memory_limit_bytes(root) == 1048576 < installed


def test_peak_memory_grows_with_what_is_filled():
    code = "from delrec_lite.machine import peak_rss_bytes as p; a = p(); b = b'x' * 100_000_000; print(a, p())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 1e6 < before < after - 90e6
