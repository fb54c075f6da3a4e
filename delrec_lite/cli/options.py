"""Arguments of the verbs that work on a run."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe's name, or the path of a recipe's .yaml file.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs; this one is RUNS/NAME.")]
FreshFlag = Annotated[bool, typer.Option("--fresh", help="Forget what an earlier call made and start over.")]
DEFAULT_RECIPE = "ml-100k-cpu"
DEFAULT_RUNS = Path("runs")
