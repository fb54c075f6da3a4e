"""Known vulnerabilities of the pinned versions: `audit.py PIP_AUDIT CONSTRAINTS`; `make audit` calls it.

Exit code 1 if there are any. Where no database answers, it says that nothing was audited and ends well: an index
without one is no fault of the pins.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SERVICES = ("pypi", "osv")
SECONDS = 180


def ask(program: str, pins: Path, service: str) -> list[dict] | None:
    """What the database says of each pin; None if it cannot be asked."""
    command = [program, "--requirement", str(pins), "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--vulnerability-service", service]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        return json.loads(process.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        return None


def main() -> int:
    """Ask one database after another until one knows the pins."""
    program, constraints = sys.argv[1:3]
    # A build for one kind of machine (2.13.0+cpu) is known to no database by that name.
    pins = re.sub(r"\+\w+", "", Path(constraints).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pins.txt"
        path.write_text(pins, encoding="utf-8")
        for service in SERVICES:
            answered = [pin for pin in ask(program, path, service) or [] if "skip_reason" not in pin]
            if answered:
                break
        else:
            print("nothing was audited: pip-audit is missing, or no database of vulnerabilities answers from here")
            return 0
    vulnerabilities = [(pin["name"], pin["version"], bug["id"]) for pin in answered for bug in pin["vulns"]]
    for name, version, bug in vulnerabilities:
        print(f"{name} {version}: {bug}")
    print(f"{len(answered)} pinned versions audited by {service}: {len(vulnerabilities)} known vulnerabilities")
    return 1 if vulnerabilities else 0


if __name__ == "__main__":
    sys.exit(main())
