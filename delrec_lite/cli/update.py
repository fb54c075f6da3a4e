"""`delrec-lite update`: new interactions, users and items on top of a finished run."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RUNS, RecipeArgument, RunsOption

EXAMPLE = "Example: `delrec-lite update shop.yaml --interactions new.parquet --items new-items.parquet --dry-run`"


def update(
    recipe: RecipeArgument,
    interactions: Annotated[
        str, typer.Option(help="The new rows, in any form that prepare reads; rows that are known add nothing.")
    ],
    items: Annotated[
        str | None, typer.Option(help="A list with id and title of new items; known ones may be in it.")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="Your column names, where they differ from those of the first preparation.")
    ] = "",
    separator: Annotated[str, typer.Option(help="As in prepare; default: as it was there.")] = "",
    no_header: Annotated[
        bool | None, typer.Option("--no-header/--header", help="As in prepare; default: as it was there.")
    ] = None,
    keep_na: Annotated[
        bool | None, typer.Option("--keep-na/--no-keep-na", help="As in prepare; default: as it was there.")
    ] = None,
    on_bad_row: Annotated[
        str, typer.Option(help="refuse or drop malformed rows, and rows with unknown items that have no title.")
    ] = "refuse",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, how many steps and minutes; write nothing.")
    ] = False,
    compare_anew: Annotated[
        bool, typer.Option("--compare-anew", help="Train the recipe anew on all data, too, and report both gains.")
    ] = False,
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Extend the data set, go on training from the last weights, and replace the bundle if the new one is not worse.

    The old bundle stays until the new one is proven on the newest interactions. An interrupted update goes on when it
    is called again.
    """
    from delrec_lite.config import load_recipe
    from delrec_lite.data.badrows import BadRows, parse_policy
    from delrec_lite.data.readers import given_columns
    from delrec_lite.pipeline.updates.inputs import NewData
    from delrec_lite.pipeline.updates.update import update as update_run

    console = make_console(json_output, quiet)
    given = {"separator": separator or None, "header": None if no_header is None else not no_header, "keep_na": keep_na}
    layout = {name: value for name, value in given.items() if value is not None}
    new = NewData(interactions, items, given_columns(columns), layout, BadRows(parse_policy(on_bad_row)))
    updated = update_run(load_recipe(recipe), runs, new, console, dry_run, compare_anew)
    plan = updated.plan
    data = {
        "bundle": str(updated.bundle),
        "updated": updated.report is not None,
        "dry_run": dry_run,
        **plan.dump(),
        **{key: (updated.report or {}).get(key) for key in ("metrics", "gain", "groups", "seconds")},
    }
    if dry_run:
        time = "time not known" if plan.minutes is None else f"about {plan.minutes:.1f} minutes"
        console.say(
            f"  would train {plan.optimiser_steps} steps of stage 2 ({plan.new_steps} new and "
            f"{plan.trained_steps - plan.new_steps} old interactions), {plan.teacher_epochs} epochs of each teacher, "
            f"and compare the bundles on {plan.questions} newest interactions: {time}"
        )
    elif updated.report is None:
        console.say("  nothing new: the bundle stays as it is")
    console.result(data if json_output else str(updated.bundle))
