"""Reports what is installed, what the machine offers and what is missing, with the command that fixes it."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from delrec_lite import machine, needs, spinning
from delrec_lite.cache_folder import cache_folder
from delrec_lite.cards import Card, Problem, card_in_slot, cuda_of_torch, find_cards, find_problem
from delrec_lite.errors import DelrecError
from delrec_lite.export.quantisation_choice import describe_choice
from delrec_lite.hub.pull import cached
from delrec_lite.hub.registry import ASSETS, DATASETS, DEFAULT
from delrec_lite.llm.precision_choice import cached_timing, describe, limits
from delrec_lite.runtime.engines.factory import ENGINES, LLAMA_CPP, ONNX_RUNTIME
from delrec_lite.version import __version__

# What each package is for. Never imported here: torch alone would take seconds.
_PURPOSE = {
    "accelerate": "training: loading the base model",
    "bitsandbytes": "training: bases in NF4 and int8",
    "filelock": "runs and the cache: one process at a time",
    "gguf": "export, and titles outside the catalogue in GGUF bundles",
    "huggingface_hub": "fetching from the Hugging Face Hub",
    "llama-cpp-python": "serving, evaluating and quantising GGUF",
    "matplotlib": "pictures",
    "numpy": "everything",
    "peft": "training: adapters (stage 2)",
    "platformdirs": "the cache folder",
    "pyarrow": "Parquet files",
    "pydantic": "recipes",
    "pyyaml": "recipes",
    "rapidfuzz": "fuzzy title search",
    "rich": "tables and progress bars",
    "safetensors": "bundles and checkpoints",
    "scipy": "evaluation: the exact paired test",
    "tokenizers": "titles outside the catalogue",
    "torch": "training, both stages",
    "transformers": "training: the base model",
    "typer": "the command line",
}
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(?:;.*extra == ['\"]([\w-]+)['\"])?")

# Where the tests run. Elsewhere the packages have wheels too, except llama-cpp-python.
_TESTED = {("Linux", "x86_64")}

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Check:
    """One check and its outcome.

    Attributes:
        name: What was checked.
        state: If ``missing`` or ``warning``, ``fix`` says what to do.
        value: Version, path or figure.
        purpose: What it is for.
        fix: The command or action that fixes it; empty if nothing is wrong.
    """

    name: str
    state: State
    value: str
    purpose: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """All checks, and facts of the machine.

    Attributes:
        checks: In display order.
        machine: ``cpu``, ``features``, ``cores``, ``memory_bytes``, ``cards``.
    """

    checks: tuple[Check, ...]
    machine: dict[str, Any]

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": __version__,
            "python": platform.python_version(),
            "machine": self.machine,
            "checks": [asdict(check) for check in self.checks],
        }


def examine(cache: Path | None = None) -> Report:
    """Look at packages, machine and cache without importing anything heavy or fetching anything.

    Args:
        cache: Default: ``cache_folder()``.
    """
    figures = {
        "cpu": machine.cpu_name(),
        "features": list(machine.cpu_features()),
        "cores": machine.cores_allowed(),
        "memory_bytes": machine.memory_limit_bytes(),
    }
    cards, cuda = find_cards(), cuda_of_torch()
    figures["cards"] = [asdict(card) for card in cards]
    python = Check("python", "ok", f"{platform.python_version()} at {sys.executable}", "everything")
    program = Check("delrec-lite", "ok", __version__, "this program")
    folder = cache or cache_folder()
    checks = [program, python, *_packages(), *_engines(), _bundles(), *_machine(figures, folder)]
    checks += [*_gpu(cards, cuda, find_problem(cards, cuda, card_in_slot())), *_cache(folder)]
    return Report(tuple(checks), figures)


def _packages() -> Iterator[Check]:
    for name, version_range in sorted(requirements().items()):
        purpose = _PURPOSE.get(name, "")
        install = f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(name + version_range)}"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "llama-cpp-python" and not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
                install = f"install a C++ compiler (Debian: sudo apt-get install build-essential), then {install}"
            yield Check(name, "missing", "", purpose, install)
            continue
        fits = _in_range(version, version_range)
        yield Check(name, "ok" if fits else "warning", version, purpose, "" if fits else install)
    try:
        yield Check("pip", "ok", importlib.metadata.version("pip"), "pull from the package index")
    except importlib.metadata.PackageNotFoundError:
        command = f"{shlex.quote(sys.executable)} -m ensurepip"
        yield Check("pip", "missing", "", "pull from the package index", command)


def _engines() -> Iterator[Check]:
    """The engines that can serve a bundle, including those of other packages."""
    for name in ENGINES.names():
        try:
            kind = ENGINES[name]
        except DelrecError as error:
            yield Check(f"engine {name}", "warning", error.message, "serving", error.hint)
            continue
        state: State = "ok" if kind.installed else "missing"
        package = kind.package if kind.installed else ""
        install = "" if kind.installed else kind.install
        yield Check(f"engine {name}", state, package, f"serving {kind.format.upper()} bundles", install)


def _bundles() -> Check:
    """Which bundles export writes and quickstart serves: with llama.cpp, or without a compiler."""
    formats = [kind.format.upper() for kind in (LLAMA_CPP, ONNX_RUNTIME) if kind.installed]
    if not formats:
        return Check("bundles", "warning", "no engine is installed", "export and serving", ONNX_RUNTIME.install)
    road = "" if LLAMA_CPP.installed else " alone: llama-cpp-python, which has to be compiled, is not installed"
    return Check("bundles", "ok", " and ".join(formats) + road, "export and serving")


def requirements() -> dict[str, str]:
    """Required version range of each package by name, from this installation's metadata, without test packages."""
    try:
        lines = importlib.metadata.requires("delrec-lite") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return dict.fromkeys(_PURPOSE, "")
    ranges = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match[3] != "dev":
            ranges[match[1].lower()] = match[2].strip()
    return ranges


def _in_range(version: str, version_range: str) -> bool:
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        return True
    try:
        return SpecifierSet(version_range).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


def _machine(figures: dict[str, Any], cache: Path) -> Iterator[Check]:
    system = platform.system(), platform.machine()
    tested = system in _TESTED
    yield Check(
        "platform",
        "ok" if tested else "warning",
        " ".join(system),
        "packages and kernels",
        ""
        if tested
        else "not tested on this platform: `delrec-lite verify BUNDLE` compares its answers with stored ones",
    )
    yield Check("CPU", "ok", figures["cpu"], "training and serving")
    features = figures["features"]
    old = machine.runs_x86() and features and "avx2" not in features
    yield Check(
        "CPU features",
        "warning" if old else "ok",
        " ".join(features) or "unknown on this system",
        "quantised and bfloat16 kernels",
        "this CPU lacks AVX2: training and ONNX bundles run, several times slower; GGUF bundles need a llama.cpp that "
        "was compiled on this machine"
        if old
        else "",
    )
    precision = describe(features, limits(), cached_timing(cache))
    yield Check("precision", "ok", precision, "training and evaluation, model.precision: auto")
    polite, spins = spinning.describe()
    yield Check(
        "waiting threads",
        "ok" if polite else "warning",
        spins,
        "serving beside other programs",
        ""
        if polite
        else "load the bundle before importing that package, or set GOMP_SPINCOUNT=10000 before Python starts",
    )
    yield Check("quantisation", "ok", describe_choice(cache), "export --quant auto")
    alone = figures["cores"] == 1
    yield Check(
        "cores allowed",
        "warning" if alone else "ok",
        str(figures["cores"]),
        "threads",
        "one core: training may take twice the time that recipes name for two; allow this process more if there are"
        if alone
        else "",
    )
    yield _memory(figures["memory_bytes"])


def _memory(memory: int) -> Check:
    """What fits the memory of this machine."""
    least, whole = needs.CPU_TRAINING[-1][1], needs.CPU_TRAINING[0][1]
    purpose = f"training ml-100k-cpu needs {whole / 1e9:.1f} GB, serving its bundle {needs.SERVING / 1e9:.1f} GB"
    value = f"{memory / 1e9:.1f} GB" if memory else "unknown on this system"
    if not memory or memory >= whole:
        return Check("memory", "ok", value, purpose)
    if memory < needs.SERVING:
        fix = f"{value} is too little to serve a bundle of SmolLM2-135M, which needs {needs.SERVING / 1e9:.1f} GB"
        return Check("memory", "warning", value, purpose, fix)
    fitting = next((setting for setting, needed in needs.CPU_TRAINING if memory >= needed), None)
    if fitting is None:
        fix = f"enough to serve a bundle; training SmolLM2-135M needs at least {least / 1e9:.1f} GB"
    else:
        fix = f"enough to serve a bundle; training ml-100k-cpu fits with {fitting} (same result)"
    return Check("memory", "warning", value, purpose, fix)


def _gpu(cards: tuple[Card, ...], cuda: str | None, problem: Problem | None) -> Iterator[Check]:
    """Cards, driver and the CUDA build of torch; one line if there is no card."""
    fix = f"{problem.message}: {problem.hint}" if problem else ""
    state: State = "warning" if problem else "ok"
    if not cards:
        yield Check("GPU", state, "none, training uses the CPU", "training", fix)
        return
    for card in cards:
        size = f"{card.total_bytes / 1e9:.1f} GB, {card.free_bytes / 1e9:.1f} GB free"
        small = _too_small(card)
        yield Check(
            "GPU", "warning" if small else "ok", f"{card.name}, {size}, driver {card.driver}", "training", small
        )
    build = "torch is not installed" if cuda is None else f"torch is built for CUDA {cuda}" if cuda else "a CPU build"
    yield Check("CUDA build of torch", state, build, "training on the card", fix)


def _too_small(card: Card) -> str:
    """What does not fit a card; empty if `ml-100k-gpu` does."""
    total = card.total_bytes
    if total >= needs.CARD_RECIPE:
        return ""
    fitting = [base for base, needed in needs.CARD_LEAST.items() if total >= needed]
    recipe = f"{total / 1e9:.1f} GB is too small for ml-100k-gpu as it is ({needs.CARD_RECIPE / 1e9:.1f} GB)"
    if not fitting:
        return f"{recipe} and for every other base: train with model.device: cpu"
    return (
        f"{recipe}; bases that fit: {', '.join(fitting)}: delrec-lite init NAME --gpu {total / 1e9:.1f}GB --base BASE"
    )


def _cache(folder: Path) -> Iterator[Check]:
    existing = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    free = f"{shutil.disk_usage(existing).free / 1e9:.1f} GB free" if existing.exists() else ""
    yield Check(
        "cache",
        "ok" if writable else "warning",
        f"{folder}, {free if writable else 'not writable'}",
        "models and data sets",
        "" if writable else "set DELREC_CACHE to a folder you can write",
    )
    for name in dict.fromkeys([*ASSETS, *DATASETS.names()]):
        try:
            pulled = cached(name, folder)
        except DelrecError as error:  # from a package whose data set cannot be loaded
            yield Check(name, "warning", error.message, "dataset", error.hint)
            continue
        kind = "dataset" if name in DATASETS else "model"
        if pulled:
            yield Check(name, "ok", f"{pulled.bytes / 1e6:.0f} MB from {pulled.mirror}", kind)
        elif name in DEFAULT:
            yield Check(name, "missing", "not pulled yet", kind, f"delrec-lite pull {name}")
