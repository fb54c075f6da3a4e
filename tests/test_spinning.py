"""How long waiting threads spin: bounded where a bundle is served, as the user says, and nothing else is changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from delrec_lite import spinning
from delrec_lite.doctor import examine

IMPORT = "from delrec_lite.runtime.engines.llama_context import import_llama_cpp as load; load()"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP, and /proc")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in spinning.USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(spinning, "_late", None)
    monkeypatch.setattr(spinning, "_set_for_process", False)


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setattr(spinning, "loaded_runtimes", list)


def shown(code, **environment):
    """Settings that OpenMP's runtime shows as it loads: the last of each name."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.partition("=") for line in done.stderr.splitlines() if "=" in line)
    return {name.split()[-1]: value.strip().strip("'") for name, _, value in pairs}, done.stdout


@LINUX
def test_llama_cpp_loads_with_a_bounded_spin_and_leaves_the_environment_as_it_was():
    code = f"import os; before = dict(os.environ); {IMPORT}; assert dict(os.environ) == before"
    # llama.cpp sets KMP_BLOCKTIME where Python does not see it, but its subprocesses do.
    code += "; import subprocess; print(subprocess.check_output(['env'], text=True))"
    settings, output = shown(code)
    assert settings["GOMP_SPINCOUNT"] == spinning.OPENMP["GOMP_SPINCOUNT"]
    assert not [line for line in output.splitlines() if line.startswith(spinning.USER)]


@LINUX
@pytest.mark.parametrize(
    ("name", "value", "count"), [("GOMP_SPINCOUNT", "777", "777"), ("OMP_WAIT_POLICY", "PASSIVE", "0")]
)
def test_the_users_own_setting_is_kept(name, value, count):
    code = f"import os; {IMPORT}; print(os.environ[{name!r}], 'KMP_BLOCKTIME' in os.environ)"
    settings, output = shown(code, **{name: value})
    assert settings["GOMP_SPINCOUNT"] == count
    assert output.split() == [value, "False"]


@LINUX
def test_the_command_line_bounds_the_threads_of_torch_too():
    code = (
        "import sys; sys.argv = ['delrec-lite', '--version']; from delrec_lite.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    import torch"
    )
    assert shown(code)[0]["GOMP_SPINCOUNT"] == spinning.OPENMP["GOMP_SPINCOUNT"]


def test_a_failed_load_leaves_the_environment_as_it_was_and_the_next_one_is_bounded(no_runtime):
    before = dict(os.environ)
    with pytest.raises(ImportError), spinning.bounded():
        raise ImportError
    assert dict(os.environ) == before
    with spinning.bounded():
        assert os.environ["GOMP_SPINCOUNT"] == spinning.OPENMP["GOMP_SPINCOUNT"]
    with spinning.bounded():  # it is loaded
        assert dict(os.environ) == before


def test_the_command_line_leaves_a_users_setting_alone(monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "ACTIVE"})
    spinning.set_for_process()
    assert os.environ == {"OMP_WAIT_POLICY": "ACTIVE"}
    monkeypatch.setattr(os, "environ", {})
    spinning.set_for_process()
    assert os.environ == spinning.OPENMP


def test_what_is_run_for_comparison_gets_the_users_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "/home", "KMP_BLOCKTIME": "0"})
    assert spinning.users_environment() == {"HOME": "/home", "KMP_BLOCKTIME": "0"}
    del os.environ["KMP_BLOCKTIME"]
    spinning.set_for_process()
    assert spinning.users_environment() == {"HOME": "/home"}


def threads_check():
    return next(check for check in examine().checks if check.name == "waiting threads")


def test_doctor_shows_the_setting(no_runtime, monkeypatch):
    assert threads_check().state == "ok"
    assert "GOMP_SPINCOUNT=10000" in threads_check().value
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert threads_check().value == "OMP_WAIT_POLICY=PASSIVE"


def test_doctor_warns_where_another_package_has_loaded_openmp_before(monkeypatch):
    monkeypatch.setattr(spinning, "loaded_runtimes", lambda: ["/lib/libgomp.so.1"])
    for _ in range(2):
        check = threads_check()
        assert check.state == "warning"
        assert "GOMP_SPINCOUNT=10000" in check.fix
        with spinning.bounded():  # llama.cpp takes the runtime that is there
            pass


def test_a_runtime_that_llama_cpp_brings_itself_is_bounded(monkeypatch):
    """As beside torch's CUDA builds, whose OpenMP has a name of its own."""
    files = ["/torch/lib/libgomp-a34b3233.so.1"]
    monkeypatch.setattr(spinning, "loaded_runtimes", lambda: list(files))
    with spinning.bounded():
        files.append("/lib/libgomp.so.1")
    assert threads_check().state == "ok"


def test_runtimes_are_found_in_a_processs_list_of_files(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 fe:00 12   /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0\n"
        "7f01-7f02 r--p 00001000 fe:00 12   /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0\n"
        "7f02-7f03 r--p 00000000 fe:00 13   /opt/with space/libiomp5.so\n"
        "7f03-7f04 r--p 00000000 fe:00 14   /usr/lib/libc.so.6\n7f04-7f05 rw-p 00000000 00:00 0\n"
    )
    assert spinning.loaded_runtimes(maps) == [
        "/opt/with space/libiomp5.so",
        "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0",
    ]
    assert spinning.loaded_runtimes(Path(tmp_path / "none")) == []


def test_onnx_runtime_gets_its_bound(monkeypatch, tmp_path):
    import onnxruntime

    from delrec_lite.runtime.onnx_session import open_session

    entries = {}

    class Session:
        def __init__(self, path, options, providers):
            entries.update({name: options.get_session_config_entry(name) for name in spinning.ONNX_RUNTIME})

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    open_session(tmp_path / "model.onnx", 2)
    assert entries == spinning.ONNX_RUNTIME
    assert entries
