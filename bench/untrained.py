"""An untrained bundle, for its speed and size: ``python -m delrec_lite.bench.untrained RECIPE --out BUNDLE``.

Exports the base model with the recipe's prompt, items and quantisation. Its recommendations are worthless; its cost is
that of the trained bundle.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from delrec_lite.bench.script import add_recipe, script_parser
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.pipeline.run import Run


class Untrained(Run):
    """A run whose trained model is the untrained one."""

    def trained(self) -> tuple[Any, Any, Any]:
        """See ``Run.trained``; nothing is trained."""
        return self.untrained()


def parser() -> argparse.ArgumentParser:
    """Recipe, runs and the bundle."""
    options = script_parser("untrained", __doc__, output="the bundle's folder", needed=True)
    add_recipe(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Export it."""
    options = parser().parse_args(arguments)
    run = Untrained(load_recipe(options.recipe), options.runs, Console("human"))
    run.write_bundle(options.out, [run.recipe.export.quant], gated=False)


if __name__ == "__main__":
    main()
