"""What an installation takes: ``python -m delrec_lite.bench.install CHECKOUT --out FILE``.

Each road starts from a copy of the checkout's tracked files, with an empty home folder and no cache of pip, and asks
the result for ``doctor``. pip's own settings, such as its index, stay as they are on this machine.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.errors import DelrecError
from delrec_lite.provenance import stamp

# The calls of make that follow each other in one copy.
ROADS: Mapping[str, Sequence[Sequence[str]]] = {
    "compiled": (("setup", "COMPILER=yes"), ("dev",)),
    "wheels": (("setup", "COMPILER=no"),),
}
PACKAGES = ("torch", "transformers", "llama-cpp-python", "onnxruntime")


def bytes_on_disk(folder: Path) -> int:
    """Blocks of all files, each counted once."""
    found = [os.lstat(Path(place) / name) for place, _, names in os.walk(folder) for name in names]
    return sum({(s.st_dev, s.st_ino): getattr(s, "st_blocks", -(-s.st_size // 512)) * 512 for s in found}.values())


def fresh(home: Path) -> dict[str, str]:
    """This process's environment with another home and without pip's cache, build flags and Python's settings."""
    left_out = ("PYTHON", "VIRTUAL_ENV", "CMAKE", "XDG_", "MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**environment, "HOME": str(home), "PIP_NO_CACHE_DIR": "1", "DELREC_CACHE": str(home / "delrec")}


def measure_road(checkout: Path, calls: Sequence[Sequence[str]], work: Path) -> list[dict[str, Any]]:
    """Seconds of each call of make, and the size of the environment after it.

    Raises:
        DelrecError: A call fails; its output is in ``work``.
    """
    home, copy = work / "home", work / "copy"
    home.mkdir(parents=True)
    copy.mkdir()
    environment = fresh(home)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (checkout / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((checkout / name).read_bytes())
            (copy / name).chmod((checkout / name).stat().st_mode)
    steps = []
    for call in calls:
        log = work / f"{call[0]}.log"
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            code = subprocess.run(
                ["make", *call], cwd=copy, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
        if code:
            last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no message"])[-1]
            raise DelrecError(f"make {' '.join(call)} failed in {copy}: {last}", f"its output: {log}")
        size = bytes_on_disk(copy / ".venv")
        steps.append({"make": list(call), "seconds": round(time.monotonic() - start, 1), "bytes": size})
        steps[-1]["versions"], steps[-1]["bundles"] = _installed(copy, environment)
    return steps


def _installed(copy: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Versions of the packages that compute, and what `doctor` says of bundles."""
    done = subprocess.run(
        [copy / ".venv/bin/delrec-lite", "doctor", "--json"], cwd=copy, env=environment, capture_output=True, check=True
    )
    checks = {check["name"]: check["value"] for check in json.loads(done.stdout)["checks"]}
    return {name: checks[name] for name in PACKAGES if checks.get(name)}, checks["bundles"]


def parser() -> argparse.ArgumentParser:
    """Checkout and roads."""
    options = script_parser("install", __doc__)
    options.add_argument("checkout", type=Path, help="folder with the Makefile")
    options.add_argument("--road", action="append", choices=list(ROADS), help="repeatable; default: all")
    options.add_argument("--work", type=Path, help="folder for the copies, which are kept; default: a temporary one")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Install by every road and write what it took."""
    options = parser().parse_args(arguments)
    facts = stamp()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        roads = {
            name: measure_road(options.checkout.resolve(), ROADS[name], (work / name).resolve())
            for name in options.road or ROADS
        }
    write_json({**facts, "roads": roads}, options.out)


if __name__ == "__main__":
    main()
