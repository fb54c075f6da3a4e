"""NVIDIA cards of this machine, their driver, and the CUDA version that the installed torch is built for.

Reads files and asks `nvidia-smi`; torch is not imported.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits")
# The oldest Linux driver for any release of a CUDA version (NVIDIA, CUDA compatibility, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # vendor and class of a PCI device
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Card:
    """A card as its driver reports it.

    Attributes:
        name: Of the product.
        driver: Version of the driver.
        total_bytes: Its memory.
        free_bytes: Memory that no process uses.
    """

    name: str
    driver: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Problem:
    """Why torch cannot use a card.

    Attributes:
        message: What is wrong.
        hint: What to do.
    """

    message: str
    hint: str


def _nvidia_smi() -> str:
    try:
        return subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def find_cards(query: Callable[[], str] = _nvidia_smi) -> tuple[Card, ...]:
    """The cards that the driver lists; none without a driver.

    Args:
        query: Returns the output of `nvidia-smi`: name, driver, MiB in all and MiB free, a card a line.
    """
    cards = []
    for line in query().splitlines():
        name, *fields = (field.strip() for field in line.rsplit(",", 3))
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            cards.append(Card(name, fields[0], int(fields[1]) << 20, int(fields[2]) << 20))
    return tuple(cards)


def card_in_slot(root: Path = Path("/")) -> bool:
    """Whether the PCI bus has an NVIDIA card, with or without a driver (Linux).

    Args:
        root: File system to read ``/sys`` from.
    """

    def text(path: Path) -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    devices = (root / "sys/bus/pci/devices").glob("*")
    return any(text(d / "vendor") == _NVIDIA and text(d / "class").startswith(_DISPLAY) for d in devices)


def cuda_of_torch() -> str | None:
    """The CUDA version that torch is built for; empty for a build without CUDA, None if torch is not installed."""
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", path.read_text(encoding="utf-8"), re.MULTILINE)
    except PackageNotFoundError:
        return None
    except OSError:
        return ""
    return match[1] if match else ""


def find_problem(cards: tuple[Card, ...], cuda: str | None, in_slot: bool) -> Problem | None:
    """Why torch cannot use a card here; None if it can, or if there is neither a card nor a CUDA build.

    Args:
        cards: From ``find_cards``.
        cuda: From ``cuda_of_torch``.
        in_slot: From ``card_in_slot``.
    """
    pip = f"{sys.executable} -m pip"
    if cuda is None:
        return None
    if not cuda:
        if not cards:
            return None
        return Problem(
            f"{cards[0].name} is here, but this torch is built without CUDA",
            f"{pip} uninstall torch, then {pip} install torch (Linux: the default index has the CUDA build; Windows: "
            "see pytorch.org)",
        )
    if not cards:
        smaller = f"without a card, {pip} install --force-reinstall --index-url {CPU_BUILDS} torch is 2 GB smaller"
        return Problem(
            f"torch is built for CUDA {cuda}, but no NVIDIA driver answers",
            "install the NVIDIA driver, so that nvidia-smi lists the card" if in_slot else smaller,
        )
    oldest = OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    driver = cards[0].driver
    if driver.partition(".")[0].isdigit() and int(driver.partition(".")[0]) < oldest:
        return Problem(
            f"the NVIDIA driver {driver} is too old for this torch, built for CUDA {cuda}",
            f"install driver {oldest} or later",
        )
    return None


def problem_here() -> Problem | None:
    """``find_problem`` of this machine."""
    return find_problem(find_cards(), cuda_of_torch(), card_in_slot())
