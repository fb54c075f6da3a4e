"""Makes docs/terminal.svg anew, a picture of a terminal: `python docs/terminal.py BUNDLE`."""

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 100
COMMANDS = (
    'recommend {bundle} --history "Toy Story (1995)" --history "Star Wars (1977)" -k 5',
    'explain {bundle} --history "Toy Story (1995)" --history "Star Wars (1977)" --history "Fargo (1996)"',
)


def picture(bundle: Path) -> str:
    """The SVG: each command, and what it prints."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
    for command in COMMANDS:
        console.print(
            f"$ delrec-lite {command.format(bundle=bundle.name)}", style="bold green", highlight=False, markup=False
        )
        words = [sys.executable, "-m", "delrec_lite", *shlex.split(command.format(bundle=shlex.quote(str(bundle))))]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, env=environment
        )
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        # Without milliseconds, which are those of the machine that made the picture.
        console.print(Text.from_ansi("\n".join(line for line in lines if line and not re.match(r"\d+ ms", line))))
        console.print()
    return console.export_svg(title="delrec-lite")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("bundle", type=Path, help="of MovieLens-100K, whose titles the commands name")
    parser.add_argument("--out", type=Path, default=HERE / "terminal.svg")
    options = parser.parse_args()
    options.out.write_text(picture(options.bundle.resolve()), encoding="utf-8")


if __name__ == "__main__":
    main()
