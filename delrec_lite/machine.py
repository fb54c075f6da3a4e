"""What this process may use: cores, CPU features, memory; read from Linux, estimated elsewhere."""

import os
import platform
from collections.abc import Collection, Iterator
from pathlib import Path

from delrec_lite.errors import UsageError

# The features that decide the speed of the engines' quantised and bfloat16 kernels.
_FEATURES = {
    "avx2": "avx2",
    "f16c": "f16c",
    "fma": "fma",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    # Arm
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}
_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm"})
_ROOT = Path("/")
# llama.cpp aborts the process if the number of threads exceeds its maximum (512).
MOST_THREADS = 256


def cores_allowed(root: Path = _ROOT) -> int:
    """Cores that this process may use, at least 1: limited by its affinity and its control groups' CPU quota.

    A quota of 2.5 cores counts as 2: a third thread would be stopped for half of the time, and the other threads
    would wait for it.

    Args:
        root: File system to read control groups from.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_cpu_quota(folder) for folder in _groups("cpu", root)]
    return max(1, int(min([cores, *(q for q in quotas if q > 0)])))


def threads_for(requested: int | None) -> int:
    """How many threads an engine computes with: ``requested``, or by default the cores allowed.

    Raises:
        UsageError: ``requested`` is not from 1 to ``MOST_THREADS``.
    """
    if requested is None:
        return cores_allowed()
    if not 1 <= requested <= MOST_THREADS:
        raise UsageError(f"threads is {requested}", f"from 1 to {MOST_THREADS}, or leave it out for the cores allowed")
    return requested


def memory_limit_bytes(root: Path = _ROOT) -> int:
    """Memory that this process may use: that of the machine, or its control groups' limit; 0 if unknown."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        limits = []
    for folder in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(folder / name)[:1]
    return int(min((n for n in limits if n > 0), default=0))


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far; 0 if unknown."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def cpu_name() -> str:
    """The processor's own name."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Vector instructions that the engines use, such as ``avx512_vnni``; empty if they cannot be read."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.lower().startswith(("flags", "features")):
            flags = set(line.partition(":")[2].split())
            return tuple(name for flag, name in _FEATURES.items() if flag in flags)
    return ()


def runs_x86() -> bool:
    """Whether the processor is an x86 of 64 bits."""
    return platform.machine() in {"x86_64", "AMD64"}


def has_vnni(features: Collection[str]) -> bool | None:
    """Whether int8 products are summed without saturation by VNNI or AMX (Arm: dot product); None if unknown.

    Args:
        features: Of ``cpu_features``.
    """
    return not _INT8.isdisjoint(features) if features else None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's control groups for a controller, from the innermost up to the mount; v1 and v2.

    In a container the path in ``/proc/self/cgroup`` may be the host's and outside the mount; then the mount itself
    is the group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controllers if controllers else mount
        if controllers and not top.is_dir():
            top = mount / controller
        folder = top / path.strip().lstrip("/")
        while folder != top and top in folder.parents:
            yield folder
            folder = folder.parent
        yield top


def _cpu_quota(folder: Path) -> float:
    """The CPU quota in cores; 0 for no limit."""
    quota_period = _numbers(folder / "cpu.max")
    if not quota_period:
        quota_period = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    if len(quota_period) != 2 or min(quota_period) <= 0:
        return 0.0
    return quota_period[0] / quota_period[1]


def _numbers(path: Path) -> list[int]:
    """The integers of a one-line file; empty if the file is missing or contains ``max``."""
    words = next(iter(_lines(path)), "").split()
    return [int(w) for w in words] if all(w.lstrip("-").isdigit() for w in words) else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def unit_bytes(unit: str) -> int:
    """Bytes of a unit of memory, in any letters: ``K``, ``MB``, ``GiB``; of the empty one 1.

    Raises:
        KeyError: There is no such unit.
    """
    name = unit.upper().removesuffix("B")
    power = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}[name.removesuffix("I")]
    return int((1024 if name.endswith("I") else 1000) ** power)
