"""Opens a model and answers the stored requests in a child process with limits: its file may come from a stranger.

A model that crashes its engine, or takes all memory or time, ends the child, and the caller gets one clear error. This
contains accidents and exhaustion; it is no sandbox against code.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite import errors
from delrec_lite.data.types import Floats
from delrec_lite.environment import flag
from delrec_lite.errors import BundleError, DelrecError
from delrec_lite.machine import cores_allowed
from delrec_lite.runtime.manifest import Model

UNTRUSTED = "do not serve it; take the bundle from where it was made"
# A process with numpy and an engine takes 0.3 GB before it opens a model; a model's working memory is smaller than it.
BASE_BYTES, PER_BYTE = 2 << 30, 4
# glibc and BLAS reserve memory for each core.
CORE_BYTES = 128 << 20
SECONDS = 900.0
CHILD = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from delrec_lite.runtime.isolated import answer
answer(job)
"""


@dataclass(frozen=True)
class Limits:
    """What a child process may take.

    Attributes:
        memory: Bytes of data, where the system has such a limit.
        seconds: From its start to its end.
    """

    memory: int
    seconds: float = SECONDS

    @classmethod
    def of(cls, folder: Path) -> "Limits":
        """Limits for a bundle: ample for a sound one of its size."""
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        return cls(BASE_BYTES + CORE_BYTES * (os.cpu_count() or 1) + PER_BYTE * size)

    def apply(self, threads: int) -> None:
        """Limit this process; nothing where the system has no such limits, as Windows."""
        try:
            import resource
        except ImportError:
            return
        cpu = math.ceil(self.seconds * threads)  # it ends also where its parent was killed
        for kind, limit in (
            (resource.RLIMIT_DATA, self.memory),
            (resource.RLIMIT_CPU, cpu),
            (resource.RLIMIT_CORE, 0),
        ):
            _, hard = resource.getrlimit(kind)
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (limit, limit))


def answers_in_child(folder: Path, model: Model, threads: int | None, limits: Limits, shape: tuple[int, int]) -> Floats:
    """The scores that a model gives to the requests stored in its bundle.

    Args:
        folder: Of the bundle.
        model: Of the bundle.
        threads: Default: the cores allowed.
        limits: Of the child process.
        shape: Of the scores.

    Returns:
        float32 ``[users, items]``, see ``golden.answers``.

    Raises:
        BundleError: The model does not open, crashes its engine, or exceeds a limit.
        MissingPackageError: Its engine is not installed.
    """
    what = str(folder / model.files[0])
    with tempfile.TemporaryDirectory(prefix="delrec-verify-") as results:
        job = {
            "path": sys.path,
            "bundle": str(folder.absolute()),
            "quant": model.quant,
            "format": model.format,
            "what": what,
            "threads": threads or cores_allowed(),
            "limits": [limits.memory, limits.seconds],
            "results": results,
        }
        try:
            child = subprocess.run(
                [sys.executable, "-c", CHILD],
                input=json.dumps(job),
                stdout=subprocess.DEVNULL,
                stderr=None if flag("DELREC_DEBUG") else subprocess.DEVNULL,
                text=True,
                timeout=limits.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BundleError(f"{what} gave no answer within {limits.seconds:g} s", UNTRUSTED) from error
        _check(Path(results) / "error.json", child.returncode, what, limits)
        return _read_scores(Path(results) / "scores.npy", shape, what)


def _check(report: Path, code: int, what: str, limits: Limits) -> None:
    """Raise the error that the child reports, or that its exit code tells."""
    if report.is_file():
        kind, message, hint = json.loads(report.read_text(encoding="utf-8"))
        raise getattr(errors, kind, DelrecError)(message, hint)
    if code < 0:
        name = signal.Signals(-code).name
        cause = {
            "SIGXCPU": f"needed more than {limits.seconds:g} s of each core",
            "SIGKILL": "was ended from outside with SIGKILL, as the system does when memory is used up",
        }.get(name, f"crashed its engine ({name})")
        raise BundleError(f"{what} {cause}", UNTRUSTED)
    if code:
        raise BundleError(f"{what} ended its engine with exit code {code}", f"{UNTRUSTED}; DELREC_DEBUG=1 shows more")


def _read_scores(path: Path, shape: tuple[int, int], what: str) -> Floats:
    try:
        scores: Floats = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{what} gave no answers: {error}", UNTRUSTED) from error
    if scores.dtype != np.float32 or scores.shape != shape:
        raise BundleError(f"{what} gave answers of another form: {scores.dtype} {scores.shape}", UNTRUSTED)
    return scores


def answer(job: Mapping[str, Any]) -> None:
    """What the child process does: limit itself, open the model, write scores or an error into a folder."""
    limits, results = Limits(*job["limits"]), Path(job["results"])
    limits.apply(int(job["threads"]))
    try:
        np.save(results / "scores.npy", _scores(job), allow_pickle=False)
    except DelrecError as error:
        report: tuple[str, str, str] = type(error).__name__, error.message, error.hint
    except Exception as error:  # whatever the file makes an engine's package raise
        text = " ".join(str(error).split())[:200]
        problem = f"cannot be opened: {type(error).__name__}: {text}"
        if isinstance(error, MemoryError) or "failed to map segment" in text:  # the second from the loader of a package
            problem = f"needs more than {limits.memory / 1e9:.1f} GB of memory"
        report = "BundleError", f"{job['what']} {problem}", UNTRUSTED
    else:
        return
    (results / "error.json").write_text(json.dumps(report), encoding="utf-8")
    os._exit(0)  # an engine under a limit of memory may crash as it is freed


def _scores(job: Mapping[str, Any]) -> Floats:
    from delrec_lite.runtime.bundle import Bundle
    from delrec_lite.runtime.engines.factory import open_engine
    from delrec_lite.runtime.golden import answers, read_golden
    from delrec_lite.runtime.recommender import Recommender

    bundle = Bundle.open(job["bundle"], verify=False).choose(job["quant"], job["format"])  # hashed by the caller
    golden = read_golden(bundle.folder, bundle.trained)
    with Recommender(bundle, open_engine(bundle, threads=job["threads"])) as recommender:
        return answers(recommender, golden)
