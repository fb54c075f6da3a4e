"""Provenance of measured figures: commit, machine and versions."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from delrec_lite.machine import cores_allowed, cpu_features, cpu_name
from delrec_lite.version import __version__


def commit() -> str | None:
    """The commit of this program if it runs from a checkout, followed by ``+`` if files differ; else None."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        commit_id = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True, timeout=10)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit_id.strip() + ("+" if changed.strip() else "")


def load_average() -> float:
    """Runnable threads over the last minute; 0 if unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def machine() -> dict[str, Any]:
    """The processor, and how much of it this process may use."""
    return {
        "cpu": cpu_name(),
        "cores_allowed": cores_allowed(),
        "features": list(cpu_features()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect figures."""
    packages = {"delrec-lite": __version__, "python": platform.python_version()}
    for package in ("numpy", "llama-cpp-python", "onnxruntime", "torch", "transformers", "peft"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return packages


def now() -> str:
    """The time, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def stamp() -> dict[str, Any]:
    """The provenance fields of every report."""
    return {
        "created": now(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "load_before": load_average(),
    }
