"""Resolves a recipe's ``model.precision`` on this machine: bf16 if a short measurement finds it faster than fp32.

Without AVX512-BF16 or AMX (Arm: BF16) a processor emulates bf16: a training step of 2,000 item tokens took 226 s in
bf16 and 13 s in fp32 on one AVX2 core.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from delrec_lite import machine
from delrec_lite.environment import those_set
from delrec_lite.files import add_entry, read_entries

# What each value of the recipe resolves to if bf16, and if fp32 is faster; quantised weights are computed in one of the
# two. All other values resolve to themselves.
_RESOLVED = {"auto": ("bf16", "fp32"), "nf4": ("nf4", "nf4/fp32"), "int8": ("int8", "int8/fp32")}
# bf16 is less exact, so it must be clearly faster.
MIN_SPEEDUP = 1.15
FILE = "precision.json"
# These limit oneDNN and torch to the instructions of an older processor.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_ISA_WITHOUT = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
# A linear layer of SmolLM2-135M, with so few rows that emulated bf16 takes 0.1 s.
ROWS, WIDTH, OUT = 128, 576, 1536
REPEATS = 5
BUDGET_SECONDS = 0.4


@dataclass(frozen=True)
class Timing:
    """Time of a layer's forward and backward pass.

    Attributes:
        bf16_ms: Milliseconds in bf16.
        fp32_ms: In fp32.
    """

    bf16_ms: float
    fp32_ms: float

    @property
    def faster(self) -> str:
        """``bf16`` if it is clearly faster, else ``fp32``."""
        return "bf16" if self.bf16_ms * MIN_SPEEDUP <= self.fp32_ms else "fp32"


def possible_precisions(configured: str) -> tuple[str, ...]:
    """All results of ``resolve_precision`` for a recipe's ``model.precision``."""
    return _RESOLVED.get(configured, (configured,))


def resolve_precision(configured: str, faster: str) -> str:
    """The precision of a recipe's ``model.precision`` on a machine.

    Args:
        configured: ``auto``, ``bf16``, ``fp32``, ``nf4`` or ``int8``.
        faster: ``bf16`` or ``fp32``.

    Returns:
        ``bf16``, ``fp32``, ``nf4`` and ``int8`` (computed in bf16), ``nf4/fp32`` or ``int8/fp32`` (computed in fp32).
    """
    possible = possible_precisions(configured)
    return possible[-1] if faster == "fp32" else possible[0]


def faster_precision(device: str, cache: Path) -> str:
    """``bf16`` or ``fp32``, whichever is faster on this machine; on a CPU measured once and cached.

    Args:
        device: ``cpu`` or ``cuda``.
        cache: Folder of the cached measurement; if it cannot be written, each call measures.
    """
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    timing = cached_timing(cache)
    if timing is None:
        timing = time_precisions(_seconds_of_a_layer)
        _store(timing, cache)
    return timing.faster


def time_precisions(seconds: Callable[[str, int], float], now: Callable[[], float] = time.monotonic) -> Timing:
    """Median times of both precisions, measured alternately.

    Args:
        seconds: Time of one pass in a precision with a number of rows.
        now: A clock; after ``BUDGET_SECONDS`` no further pair is measured.
    """
    names = ("bf16", "fp32")
    for name in names:  # torch's one-time initialisation is not measured
        seconds(name, 1)
    end = now() + BUDGET_SECONDS
    samples: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(REPEATS):
        if repeat and now() > end:
            break
        for name in names:
            samples[name].append(seconds(name, ROWS))
    return Timing(*(round(1000 * median(samples[name]), 3) for name in names))


def _seconds_of_a_layer(precision: str, rows: int) -> float:
    """CPU time on one thread: other programs on the machine must not decide a choice that is cached.

    Beside eight busy processes on two cores, the elapsed time with both threads was 115 ms in bf16 and 68 ms in fp32
    on a processor where bf16 takes half the time of fp32.
    """
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Not random: the random numbers of a run must not depend on whether this was measured.
    states = torch.ones(rows, WIDTH, dtype=dtype, requires_grad=True)
    weight, gradient = torch.ones(OUT, WIDTH, dtype=dtype), torch.ones(rows, OUT, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.thread_time()
        torch.nn.functional.linear(states, weight).backward(gradient)
        return time.thread_time() - start
    finally:
        torch.set_num_threads(threads)


def cached_timing(cache: Path) -> Timing | None:
    """This machine's cached measurement; None if there is none for this machine or it cannot be read."""
    this_machine = _machine()
    for entry in read_entries(cache / FILE):
        if entry.get("machine") == this_machine:
            times = [entry.get(name) for name in ("bf16_ms", "fp32_ms")]
            numbers = [t for t in times if isinstance(t, int | float) and 0 < t < float("inf")]
            if len(numbers) == len(times):
                return Timing(*numbers)
    return None


def _store(timing: Timing, cache: Path) -> None:
    this_machine = _machine()
    entry = {"machine": this_machine, "bf16_ms": timing.bf16_ms, "fp32_ms": timing.fp32_ms}
    add_entry(cache / FILE, entry, lambda earlier: earlier.get("machine") == this_machine)


def _machine() -> dict[str, Any]:
    """What the measurement depends on; read without importing torch."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return {
        "cpu": machine.cpu_name(),
        "features": list(machine.cpu_features()),
        "cores": machine.cores_allowed(),
        "torch": torch,
        "limits": limits(),
    }


def limits() -> dict[str, str]:
    """The variables of ``LIMITS`` that are set."""
    return those_set(*LIMITS)


def bf16_is_native(features: Collection[str], limits: Mapping[str, str]) -> bool | None:
    """Whether a processor has bf16 instructions; None if its features are unknown.

    Args:
        features: Of ``machine.cpu_features``.
        limits: Of ``limits``.
    """
    if not features:
        return None
    restricted = {limits.get(name, "").upper() for name in LIMITS[1:]} & _ISA_WITHOUT
    return not restricted and not _NATIVE.isdisjoint(features)


def describe(features: Collection[str], limits: Mapping[str, str], timing: Timing | None) -> str:
    """What ``auto`` means on a CPU, in one line of text; arguments as for ``bf16_is_native``."""
    native = bf16_is_native(features, limits)
    kind = {True: "bf16 is native", False: "bf16 is emulated", None: "bf16 support is unknown"}[native] + " on this CPU"
    if timing is not None:
        return f"{kind}; measured {timing.bf16_ms:.1f} ms, fp32 {timing.fp32_ms:.1f} ms: {timing.faster} is used"
    if native is None:
        return f"{kind}; the first training measures it"
    used = "bf16 is used" if native else "fp32 is used instead"
    return f"{kind}: {used}, unless the first training measures otherwise"
