"""A bundle of a recipe before any training: how fast and how large its form will be.

``python -m delrec_lite.bench.untrained RECIPE RUNS OUT`` exports the base model with the recipe's prompt, items and
quantisation. What it recommends is worth nothing; what it costs is what the trained one will cost.
"""

import sys
from pathlib import Path

from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import Console
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.model_builder import BuiltModel, ModelBuilder
from delrec_lite.pipeline.run import Run


class _UntrainedBuilder(ModelBuilder):
    def trained(self) -> BuiltModel:
        """See ``ModelBuilder.trained``; nothing is trained."""
        return self.untrained()


class Untrained(Run):
    """A run whose trained model is the untrained one."""

    def __init__(self, recipe: Recipe, runs: Path, console: Console) -> None:
        super().__init__(recipe, runs, console)
        self.models = _UntrainedBuilder(self)


def main(recipe: str, runs: str, out: str) -> None:
    """Export it."""
    run = Untrained(load_recipe(recipe), Path(runs), Console("human"))
    write_bundle(run, Path(out), [run.recipe.export.quant], gated=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
