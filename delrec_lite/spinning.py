"""How long waiting threads of OpenMP and ONNX Runtime spin before they sleep: bounded, unless the user sets it.

By default GNU OpenMP spins for some 3 ms, ONNX Runtime without a bound. Beside other programs such threads take the
cores that the working threads wait for.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delrec_lite.environment import those_set

# OpenMP's variables that a user may have set; any of them turns this module's own setting off.
USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU: rounds of a loop, about 0.1 ms. LLVM and Intel: milliseconds.
OPENMP = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
ONNX_RUNTIME = {"session.intra_op.spin_duration_us": "100"}
_RUNTIMES = ("libgomp", "libomp", "libiomp")
_MAPS = Path("/proc/self/maps")
# Whether the library that ``bounded`` loaded uses a runtime that was there before; None: nothing was loaded yet.
_late: bool | None = None
_set_for_process = False


def users_setting() -> dict[str, str]:
    """The variables of ``USER`` that are set."""
    return those_set(*USER)


def set_for_process() -> None:
    """Set the variables in this process, and so in those that it starts; nothing where the user has set one."""
    global _set_for_process
    if not users_setting():
        os.environ.update(OPENMP)
        _set_for_process = True


def users_environment() -> dict[str, str]:
    """The environment without what ``set_for_process`` added, for other programs."""
    added = OPENMP if _set_for_process else ()
    return {name: value for name, value in os.environ.items() if name not in added}


@contextmanager
def bounded() -> Iterator[None]:
    """Set the variables while a library loads that brings OpenMP, which reads them then and never again."""
    global _late
    if _late is not None or users_setting():
        yield
        return
    before = loaded_runtimes()
    os.environ.update(OPENMP)
    try:
        yield
    finally:
        for name in OPENMP:
            os.environ.pop(name, None)
    _late = bool(before) and loaded_runtimes() == before


def describe() -> tuple[bool, str]:
    """Whether spinning is bounded, or as the user has set it, in this process; and a line that says how."""
    settings = users_setting()
    if settings:
        return True, ", ".join(f"{name}={value}" for name, value in settings.items())
    runtimes = loaded_runtimes() if _late is None else []
    if _late or runtimes:
        return False, "not bounded: another package loaded OpenMP before llama.cpp"
    return True, "bounded when llama.cpp loads: " + ", ".join(f"{name}={value}" for name, value in OPENMP.items())


def loaded_runtimes(maps: Path = _MAPS) -> list[str]:
    """Files of the OpenMP runtimes in this process; empty where the system does not tell.

    Args:
        maps: Linux's list of a process's files.
    """
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = (line.partition("/")[2] for line in lines)
    return sorted({f"/{path}" for path in paths if Path(path).name.startswith(_RUNTIMES)})
