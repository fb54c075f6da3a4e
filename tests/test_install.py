"""Both ways to install: with llama.cpp, which is compiled, and from wheels alone, where bundles are ONNX."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from delrec_lite.bench import install
from delrec_lite.console import Console
from delrec_lite.doctor import examine
from delrec_lite.errors import DelrecError, MissingPackageError
from delrec_lite.pipeline.quickstart import quickstart
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines import factory
from delrec_lite.runtime.recommender import Recommender

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without_llama_cpp(monkeypatch):
    """llama-cpp-python as if it were not installed."""

    def missing(name):
        if name == "llama-cpp-python":
            raise PackageNotFoundError(name)
        return version(name)

    def remove():
        monkeypatch.setattr(factory, "version", missing)
        monkeypatch.setitem(sys.modules, "llama_cpp", None)

    return remove


def test_without_llama_cpp_quickstart_writes_onnx_and_recommends_the_same(
    tiny_run, tmp_path, without_llama_cpp, capsys
):
    recipe = tiny_run.recipe(export={"onnx_quant": "fp32"})
    tables, answers, lines = [], [], []
    for folder in ("compiled", "wheels"):
        shutil.copytree(tmp_path / "compiled", tmp_path / folder) if folder == "wheels" else None
        run = quickstart(recipe, tmp_path / folder, Console())
        table = json.loads((run.folder / "table.json").read_text())
        tables.append({row["model"]: row["metrics"] for row in table})
        bundle = Bundle.open(run.bundle)
        with Recommender.load(run.bundle) as recommender:
            titles = bundle.items.titles
            answers.append([item.title for item in recommender.recommend([titles[3], titles[4]], 5).items])
        lines.append([line for line in capsys.readouterr().err.splitlines() if "llama-cpp-python" in line])
        assert bundle.formats == (("gguf",) if folder == "compiled" else ("onnx",))
        without_llama_cpp()
    assert answers[0] == answers[1]
    assert [name for name in tables[0] if name not in tables[1]] == ["DELRec (GGUF f16)"]
    assert [name for name in tables[1] if name not in tables[0]] == ["DELRec (ONNX fp32)"]
    assert tables[0]["SASRec"] == tables[1]["SASRec"]
    assert lines[0] == []
    assert len(lines[1]) == 1
    assert "is not installed, so the bundle is ONNX fp32 instead of GGUF f16" in lines[1][0]
    assert 'pip install "delrec-lite[gguf]"' in lines[1][0]


def test_a_form_of_prompt_that_needs_llama_cpp_says_so_before_anything_is_trained(tiny_run, without_llama_cpp):
    without_llama_cpp()
    run = tiny_run(model={"history": "titles"})
    with pytest.raises(MissingPackageError, match="writing GGUF needs llama-cpp-python") as error:
        run.export()
    assert 'pip install "delrec-lite[gguf]"' in error.value.hint
    assert not run.stages


def test_doctor_says_which_bundles_are_written_here(without_llama_cpp, tmp_path):
    def bundles():
        return next(check for check in examine(tmp_path).checks if check.name == "bundles")

    assert (bundles().state, bundles().value) == ("ok", "GGUF and ONNX")
    without_llama_cpp()
    assert bundles().state == "ok"
    assert bundles().value.startswith("ONNX alone: llama-cpp-python")


@pytest.mark.parametrize("system", [("Linux", "aarch64"), ("Darwin", "arm64")])
def test_doctor_names_a_platform_that_is_not_tested(monkeypatch, tmp_path, system):
    monkeypatch.setattr("platform.system", lambda: system[0])
    monkeypatch.setattr("platform.machine", lambda: system[1])
    checks = {check.name: check for check in examine(tmp_path).checks}
    assert (checks["platform"].state, checks["platform"].value) == ("warning", " ".join(system))
    assert "delrec-lite verify" in checks["platform"].fix
    assert "AVX2" not in checks["CPU features"].fix


def would_run(venv, *arguments):
    """The commands that make would run for an environment in ``venv``."""
    command = ["make", "--dry-run", f"VENV={venv}", "TORCH_INDEX=", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=clean).stdout


def test_setup_installs_what_a_user_needs_and_dev_the_rest(tmp_path):
    compiled, wheels = (would_run(tmp_path, "setup", f"COMPILER={word}") for word in ("yes", "no"))
    assert ".ci/compile.py" in compiled
    assert ".ci/compile.py" not in wheels
    assert "bundles are ONNX" in wheels
    assert 'editable ".[train,onnx,serve]"' in compiled
    assert ",dev]" not in compiled + wheels + would_run(tmp_path, "demo")
    for target in ("test", "lint", "typecheck", "wheel-test", "docs", "test-transformers4"):
        assert ",dev]" in would_run(tmp_path, target)
    assert "build/peers" in would_run(tmp_path, "test-transformers4")


def test_what_was_installed_without_a_compiler_stays_so(tmp_path):
    (tmp_path / ".setup-no").touch()
    assert "pip install" not in would_run(tmp_path, "demo")
    assert ".ci/compile.py" in would_run(tmp_path, "setup", "COMPILER=yes")


class Recording(Console):
    """Notes the bar's total and steps."""

    def __init__(self):
        super().__init__("quiet")
        self.totals, self.steps = [], []

    def progress(self, label, total):
        self.totals.append(total)
        inner = super().progress(label, total)
        tick = inner.__enter__()

        class Bar:
            def __enter__(_):
                return lambda steps=1, note="": (self.steps.append(steps), tick(steps, note))

            def __exit__(_, *error):
                return inner.__exit__(*error)

        return Bar()


@pytest.fixture
def compile_module():
    spec = importlib.util.spec_from_file_location("compile_llama", ROOT / ".ci" / "compile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("build", "total"), [("[1/4] a\nnoise\n  [3/4] b\n[4/4] c\n", 4), ("[ 25%] a\n[100%] b\n", 100)]
)
def test_the_compilation_shows_its_steps_and_uses_all_cores(compile_module, monkeypatch, tmp_path, build, total):
    monkeypatch.setattr(compile_module, "LOG", tmp_path / "log.txt")
    monkeypatch.setattr(compile_module, "cores_allowed", lambda: 7)
    monkeypatch.delenv("CMAKE_BUILD_PARALLEL_LEVEL", raising=False)
    console = Recording()
    code = f"import os; print({build!r}); print(os.environ['CMAKE_BUILD_PARALLEL_LEVEL'], 'cores'); raise SystemExit(3)"
    assert compile_module.install([sys.executable, "-c", code], console) == 3
    assert (console.totals, sum(console.steps)) == ([total], total)
    assert "7 cores" in (tmp_path / "log.txt").read_text()


def test_an_installation_is_measured_from_an_empty_home(tmp_path, capsys):
    """A checkout whose `make setup` writes an environment of a known size, and whose `doctor` answers."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    checks = [{"name": "bundles", "value": "ONNX alone"}, {"name": "torch", "value": "2.13.0"}]
    (checkout / "Makefile").write_text(
        'setup:\n\tmkdir -p .venv/bin && test -z "$$(ls $$HOME)" && test $$PIP_NO_CACHE_DIR = 1\n'
        "\thead -c 100000 /dev/zero > .venv/blob\n"
        f"\tprintf '#!/bin/sh\\necho %s\\n' '{json.dumps(json.dumps({'checks': checks}))}' > .venv/bin/delrec-lite\n"
        "\tchmod +x .venv/bin/delrec-lite\n"
    )
    for command in (["init", "-q"], ["add", "Makefile"]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    (checkout / "untracked").write_text("x")
    out = tmp_path / "install.json"
    install.main([str(checkout), "--road", "wheels", "--work", str(tmp_path / "work"), "--out", str(out)])
    (step,) = json.loads(out.read_text())["roads"]["wheels"]
    assert 100_000 <= step["bytes"] < 200_000
    assert (step["make"], step["bundles"], step["versions"]) == (
        ["setup", "COMPILER=no"],
        "ONNX alone",
        {"torch": "2.13.0"},
    )
    assert not (tmp_path / "work" / "wheels" / "copy" / "untracked").exists()
    (checkout / "Makefile").write_text("setup:\n\t@echo no room left; exit 1\n")
    with pytest.raises(DelrecError, match="make setup COMPILER=no failed"):
        install.main([str(checkout), "--road", "wheels", "--work", str(tmp_path / "again")])
