"""The code blocks of a page of docs/walks, run from an empty folder as a reader runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.command import PROGRAM

WALKS = Path(__file__).parents[1] / "docs" / "walks"


class Walk:
    """A page and the folder in which it is walked.

    Args:
        page: Its name without suffix.
        folder: Empty.
        replaced: What stands in the page, and what the test takes for it: a tiny model, a free port.
    """

    def __init__(self, page, folder, replaced=()):
        self.text, self.folder = (WALKS / f"{page}.md").read_text(encoding="utf-8"), folder
        for words, instead in dict(replaced).items():
            assert words in self.text, f"{page}.md does not say {words!r}"
            self.text = self.text.replace(words, instead)
        blocks = re.findall(r"^```(bash|python)\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)
        self.lines = [line for kind, block in blocks if kind == "bash" for line in block.splitlines() if line.strip()]
        for kind, block in blocks:
            if kind == "python":
                name = re.match(r"# (\w+\.py)\n", block)[1]
                (folder / name).write_text(block, encoding="utf-8")

    def beginning(self, *words):
        """The lines that begin with these words."""
        return [line for line in self.lines if line.startswith(words)]

    def run(self, line, **environment):
        """Run a line of a shell in the folder; its output."""
        path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "OMP_NUM_THREADS": "1", "DELREC_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        line = re.sub(r"^python ", f"{sys.executable} ", line)
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DELREC_CACHE": str(self.folder / "cache"), **settings, **environment},
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout
