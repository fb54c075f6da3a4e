"""`delrec-lite eval`: evaluates a run and prints its table."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, RecipeArgument, RunsOption, SetOption, ZeroShotFlag

EXAMPLE = "Example: `delrec-lite eval ml-100k-cpu --json`"


def eval(  # noqa: A001 - the verb's name
    recipe: RecipeArgument = DEFAULT_RECIPE,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused",
            help="Add a row that combines the trained model with its teachers by a learned weight; with "
            "`finetune.teacher_inside`, one without them.",
        ),
    ] = False,
    zero_shot: ZeroShotFlag = False,
    bundle: Annotated[
        bool,
        typer.Option(
            help="Add a row of the exported bundle; without it nothing is exported, and llama.cpp is not needed."
        ),
    ] = True,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="NAME=FILE",
            help="Add a row of your own model: its ranked lists, with user_id, item_id, and rank or score; repeatable.",
        ),
    ] = None,
    row_missing: Annotated[
        str,
        typer.Option(help="For --row: refuse a file that lacks test users, or count the last rank for them."),
    ] = "refuse",
    changes: SetOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Evaluate every model of the run on the test split and print the table; missing stages run first."""
    from delrec_lite.pipeline.overrides import load_changed
    from delrec_lite.pipeline.own_rows import parse_rows
    from delrec_lite.pipeline.run import Run
    from delrec_lite.pipeline.table import evaluate, show

    console, own = make_console(json_output, quiet), parse_rows(row or ())
    run = Run(load_changed(recipe, changes), runs, console)
    show(run, evaluate(run, fused, zero_shot, bundle, own, row_missing), console)
