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
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as `finetune.lr=5e-4`; can be repeated."
    ),
]
LogOption = Annotated[
    str, typer.Option("--log", help="Experiment trackers, separated by commas: tensorboard, wandb, mlflow, trackio.")
]
DEFAULT_RECIPE = "ml-100k-cpu"
DEFAULT_RUNS = Path("runs")
