"""A bundle of a recipe before any training: how fast and how large its form will be.

``python -m delrec_lite.bench.untrained RECIPE RUNS OUT`` exports the base model with the recipe's prompt, items and
quantisation. What it recommends is worth nothing; what it costs is what the trained one will cost.
"""

import sys
from pathlib import Path
from typing import Any

from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.pipeline.run import Run


class Untrained(Run):
    """A run whose trained model is the untrained one."""

    def trained(self) -> tuple[Any, Any, Any]:
        """See ``Run.trained``; nothing is trained."""
        return self.untrained()


def main(recipe: str, runs: str, out: str) -> None:
    """Export it."""
    run = Untrained(load_recipe(recipe), Path(runs), Console("human"))
    run.write_bundle(Path(out), [run.recipe.export.quant], gated=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
