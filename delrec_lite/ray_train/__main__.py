"""The command ``python -m delrec_lite.ray_train``, for clusters: a thin adapter over ``trainer.train_with_ray``."""

from typing import Annotated

import typer

from delrec_lite.cli.app import run_command
from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, FreshFlag, RecipeArgument, RunsOption, SetOption
from delrec_lite.cli.train import Stage

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(epilog="Example: `python -m delrec_lite.ray_train shop.yaml --workers 8 --runs /shared/runs`")
def ray_train(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    workers: Annotated[int, typer.Option(min=1, help="Workers, each with a card, or with --cores on CPUs.")] = 1,
    stage: Annotated[
        Stage, typer.Option(help="The last stage to run; earlier stages run if they are not finished.")
    ] = (Stage.finetune),
    changes: SetOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores of each worker.")] = 1,
    fresh: FreshFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train by Ray Train on the cluster that RAY_ADDRESS names, or else on this machine.

    The recipe, its data, RUNS and DELREC_CACHE are on storage that all machines share.
    """
    from delrec_lite.pipeline.overrides import load_changed
    from delrec_lite.ray_train.trainer import train_with_ray

    console = make_console(json_output, quiet)
    done = train_with_ray(load_changed(recipe, changes), runs, workers, stage.value, cores, fresh, console)
    console.result(done if json_output else done[stage.value]["folder"])


if __name__ == "__main__":
    run_command(app)
