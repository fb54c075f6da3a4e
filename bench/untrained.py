"""An untrained bundle, for its speed and size: ``python -m delrec_lite.bench.untrained RECIPE --out BUNDLE``.

Exports the base model with the recipe's prompt, items and quantisation. Its recommendations are worthless; its cost is
that of the trained bundle.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from delrec_lite.bench.script import add_recipe, script_parser
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


def parser() -> argparse.ArgumentParser:
    """Recipe, runs and the bundle."""
    options = script_parser("untrained", __doc__, output="the bundle's folder", needed=True)
    add_recipe(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Export it."""
    options = parser().parse_args(arguments)
    run = Untrained(load_recipe(options.recipe), options.runs, Console("human"))
    write_bundle(run, options.out, [run.recipe.export.quant], gated=False)


if __name__ == "__main__":
    main()
