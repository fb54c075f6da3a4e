"""What a recipe's ``model.precision`` means on this machine: bf16 where a short measurement finds it faster than fp32.

Without AVX512-BF16 or AMX (Arm: BF16) a processor emulates bf16: a training step of 2,000 item tokens took 226 s in
bf16 and 13 s in fp32 on one AVX2 core.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from delrec_lite import machine
from delrec_lite.files import write_whole

# What each value of the recipe may turn out to be, computed in bf16 and in fp32; quantised weights are turned into one
# of the two when they are used. Other values mean themselves.
_MEANINGS = {"auto": ("bf16", "fp32"), "nf4": ("nf4", "nf4/fp32"), "int8": ("int8", "int8/fp32")}
# bf16 rounds more, so it has to be clearly faster.
LEAST_GAIN = 1.15
FILE = "precision.json"
# These hold oneDNN and torch to what an older processor has.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_ISA_WITHOUT = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"})
# A linear layer of SmolLM2-135M, and few enough rows that emulated bf16 takes 0.1 s.
ROWS, WIDTH, OUT = 128, 576, 1536
REPEATS = 5
BUDGET_SECONDS = 0.4


@dataclass(frozen=True)
class Timing:
    """How long a layer's forward and backward pass takes.

    Attributes:
        bf16_ms: Milliseconds in bf16.
        fp32_ms: In fp32.
    """

    bf16_ms: float
    fp32_ms: float

    @property
    def faster(self) -> str:
        """``bf16`` where that is clearly faster, else ``fp32``."""
        return "bf16" if self.bf16_ms * LEAST_GAIN <= self.fp32_ms else "fp32"


def meanings(wanted: str) -> tuple[str, ...]:
    """All that a recipe's ``model.precision`` may turn out to be, see ``meaning``."""
    return _MEANINGS.get(wanted, (wanted,))


def meaning(wanted: str, faster: str) -> str:
    """What a recipe's ``model.precision`` is on a machine.

    Args:
        wanted: ``auto``, ``bf16``, ``fp32``, ``nf4`` or ``int8``.
        faster: ``bf16`` or ``fp32``.

    Returns:
        ``bf16``, ``fp32``, ``nf4`` and ``int8`` (computed in bf16), ``nf4/fp32`` or ``int8/fp32`` (computed in fp32).
    """
    found = meanings(wanted)
    return found[-1] if faster == "fp32" else found[0]


def faster_precision(device: str, cache: Path) -> str:
    """``bf16`` or ``fp32``, whichever is faster here; on a CPU measured once and kept.

    Args:
        device: ``cpu`` or ``cuda``.
        cache: Folder of the kept measurement; where it cannot be written, each call measures.
    """
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    found = kept_timing(cache)
    if found is None:
        found = measure(_seconds_of_a_layer)
        _keep(found, cache)
    return found.faster


def measure(seconds: Callable[[str, int], float], now: Callable[[], float] = time.monotonic) -> Timing:
    """Medians of both precisions, taken in turn.

    Args:
        seconds: Of one pass in a precision with so many rows.
        now: A clock; after ``BUDGET_SECONDS`` no further pair is taken.
    """
    names = ("bf16", "fp32")
    for name in names:  # what torch sets up once is not counted
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
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Not random: the run's own random numbers must not depend on whether this was measured.
    states = torch.ones(rows, WIDTH, dtype=dtype, requires_grad=True)
    weight, gradient = torch.ones(OUT, WIDTH, dtype=dtype), torch.ones(rows, OUT, dtype=dtype)
    start = time.perf_counter()
    torch.nn.functional.linear(states, weight).backward(gradient)
    return time.perf_counter() - start


def kept_timing(cache: Path) -> Timing | None:
    """This machine's kept measurement; none where it was not made, is another machine's or does not read."""
    here = _here()
    for entry in _entries(cache / FILE):
        if isinstance(entry, dict) and entry.get("machine") == here:
            times = [entry.get(name) for name in ("bf16_ms", "fp32_ms")]
            numbers = [t for t in times if isinstance(t, int | float) and 0 < t < float("inf")]
            if len(numbers) == len(times):
                return Timing(*numbers)
    return None


def _keep(timing: Timing, cache: Path) -> None:
    here = _here()
    others = [e for e in _entries(cache / FILE) if isinstance(e, dict) and e.get("machine") != here]
    entry = {"machine": here, "bf16_ms": timing.bf16_ms, "fp32_ms": timing.fp32_ms}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(cache / FILE, json.dumps([*others, entry], indent=1) + "\n")
    except OSError:
        return  # the choice stands without it


def _entries(path: Path) -> Sequence[Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return held if isinstance(held, list) else []


def _here() -> dict[str, Any]:
    """What a measurement depends on; read without importing torch."""
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
    """Those of ``LIMITS`` that are set."""
    return {name: os.environ[name] for name in LIMITS if name in os.environ}


def bf16_is_native(features: Collection[str], limits: Mapping[str, str]) -> bool | None:
    """Whether a processor multiplies bf16 itself; None where its features are not known.

    Args:
        features: As ``machine.cpu_features`` names them.
        limits: Environment variables, some of ``LIMITS``.
    """
    if not features:
        return None
    held_back = {limits.get(name, "").upper() for name in LIMITS[1:]} & _ISA_WITHOUT
    return not held_back and not _NATIVE.isdisjoint(features)


def describe(features: Collection[str], limits: Mapping[str, str], timing: Timing | None) -> str:
    """What ``auto`` means on a CPU, in one line of words; arguments as for ``bf16_is_native``."""
    native = bf16_is_native(features, limits)
    kind = {True: "bf16 is native", False: "bf16 is emulated", None: "bf16 is not known"}[native] + " on this CPU"
    if timing is not None:
        return f"{kind}; measured {timing.bf16_ms:.1f} ms, fp32 {timing.fp32_ms:.1f} ms: {timing.faster} is used"
    if native is None:
        return f"{kind}; the first training measures it"
    used = "bf16 is used" if native else "fp32 is used instead"
    return f"{kind}: {used}, unless the first training measures otherwise"
