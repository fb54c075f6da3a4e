"""Arguments shared by the verbs that work on a run."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a .yaml file.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs; this run is RUNS/NAME.")]
FreshFlag = Annotated[bool, typer.Option("--fresh", help="Delete the results of earlier calls and start over.")]
ZeroShotFlag = Annotated[
    bool,
    typer.Option("--zero-shot", help="Add a row of the untrained LLM: about half a second per user on two cores."),
]
DEFAULT_RECIPE = "ml-100k-cpu"
DEFAULT_RUNS = Path("runs")
