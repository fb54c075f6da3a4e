"""What is installed is what is needed: extras, packages, a wheel that serves an ONNX bundle in a fresh environment."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import export_tiny
from tests.tiny import dataset

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "onnx", "onnxruntime", "llama_cpp", "gguf", "fastapi", "pydantic")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements):
    return {r.split(">")[0].split("<")[0].split("=")[0].split("[")[0].strip() for r in requirements}


def test_extras_are_what_they_are_for(project):
    extras = project["project"]["optional-dependencies"]
    assert {"train", "gguf", "onnx", "serve", "bench", "all"} <= set(extras)
    assert names(extras["onnx"]) == {"onnxruntime"}
    assert names(extras["gguf"]) == {"llama-cpp-python"}
    assert not names(project["project"]["dependencies"]) & {"torch", "llama-cpp-python", "onnxruntime", "pydantic"}
    assert {"onnx", "onnxruntime", "torch"} <= names(extras["train"])
    whole = extras["all"][0]
    assert all(name in whole for name in ("train", "gguf", "onnx", "serve", "bench"))


def test_every_package_is_listed(project):
    mapped = {"delrec_lite": ROOT / "delrec_lite"}
    mapped |= {name: ROOT / folder for name, folder in project["tool"]["setuptools"]["package-dir"].items()}
    found = set()
    for name, folder in mapped.items():
        for file in folder.rglob("__init__.py"):
            found.add(".".join((name, *file.parent.relative_to(folder).parts)))
    assert found == set(project["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(
    "module", ["delrec_lite", "delrec_lite.runtime.recommender", "delrec_lite.runtime.engines.onnx"]
)
def test_importing_pulls_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_is_imported_without_torch():
    code = f"import sys, delrec_lite.pipeline.run; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pydantic']"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of a copy of the sources."""
    folder = tmp_path_factory.mktemp("built")
    left_out = shutil.ignore_patterns(".*", "build", "dist", "shared", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from setuptools import build_meta\n"
        "to = sys.argv[1]  # the first build leaves arguments of its own there\n"
        "build_meta.build_wheel(to); build_meta.build_sdist(to)\n"
    )
    arguments = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(arguments, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_nothing_else(built):
    wheel, sdist = built
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in files} == {"delrec_lite"}
    for name in (
        "export/onnx_file.py",
        "bench/runner.py",
        "runtime/engines/onnx.py",
        "py.typed",
        "recipes/ml-100k-cpu.yaml",
    ):
        assert f"delrec_lite/{name}" in files
    with tarfile.open(sdist) as held:
        inside = {name.split("/", 1)[1] for name in held.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "export/onnx_file.py", "delrec_lite/recipes/ml-100k-cpu.yaml"} <= inside


@pytest.mark.slow
def test_a_wheel_with_onnx_alone_recommends(built, tiny_base, tmp_path):
    """A fresh environment, packages from the index: no compiler, no torch, no llama.cpp."""
    bundle = export_tiny(tiny_base, tmp_path / "tiny.delrec", formats="onnx", onnx_quant="int8").path
    venv.create(tmp_path / "fresh", with_pip=True)
    bin_ = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def call(*arguments, check=True):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=clean, cwd=tmp_path)
        assert done.returncode == 0 or not check, done.stderr
        return done

    pinned = ["--constraint", str(ROOT / "constraints.txt"), "--only-binary", ":all:"]
    call(bin_ / "python", "-m", "pip", "install", "--quiet", *pinned, f"{built[0]}[onnx]")
    for name in ("torch", "llama_cpp", "onnx", "gguf"):
        assert "ModuleNotFoundError" in call(bin_ / "python", "-c", f"import {name}", check=False).stderr
    titles = dataset().catalog.titles
    asked = ["--history", titles[3], "--history", "Purple Cactus", "--allow-new", "-k", "3", "--json"]
    done = call(bin_ / "delrec-lite", "recommend", bundle, *asked)
    assert len(json.loads(done.stdout)["items"]) == 3
    assert "Traceback" not in done.stderr
    assert call(bin_ / "delrec-lite", "verify", bundle).returncode == 0
