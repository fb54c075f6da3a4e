"""`delrec-lite tune`: searches the best settings of a recipe by Optuna, on validation users."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console, names_in
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, LogOption, RecipeArgument, RunsOption, SetOption

if TYPE_CHECKING:
    from delrec_lite.pipeline.run import Run

EXAMPLE = (
    "Example: `delrec-lite tune shop.yaml --trials 30 --time 6h`, then "
    "`delrec-lite train runs/shop-tune-student/best.yaml`"
)


def tune(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 20,
    time: Annotated[
        str, typer.Option(help="No new trial after this time, such as 2h or 90m, the trials of earlier calls included.")
    ] = "",
    model: Annotated[
        str, typer.Option(help="student: stages 1 and 2; teacher: the recipe's teachers, by the same figure.")
    ] = "student",
    space: Annotated[
        Path | None,
        typer.Option(help="YAML file of keys, each with a list of values or low, high, log, step; default: built in."),
    ] = None,
    changes: SetOption = None,
    log: LogOption = "",
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try settings of a recipe, compare them on validation users, and write the best recipe.

    The same command goes on where it ended or was interrupted. Trials whose validation curve is below the median of
    the others are pruned. Test users are never read.
    """
    from delrec_lite.pipeline.overrides import one_each, parse_sets
    from delrec_lite.pipeline.trackers import parse_trackers, tracked
    from delrec_lite.tuning.budget import Budget, parse_time
    from delrec_lite.tuning.report import BEST, MOST_SHOWN, TABLE, cells, header
    from delrec_lite.tuning.study import Tuning
    from delrec_lite.tuning.study import tune as search

    console, trackers = make_console(json_output, quiet), parse_trackers(names_in(log))
    tuning = Tuning(recipe, one_each(parse_sets(changes or ())), model, space, Budget(trials, parse_time(time)))

    def follow(run: "Run") -> AbstractContextManager[None]:
        folder = run.folder.parent
        return tracked(run.recipe, folder, trackers, console, folder.name)

    report = search(tuning, runs, console, follow)
    shown = report.ranked()[:MOST_SHOWN]
    data = {
        "folder": str(report.folder),
        "best": None if report.best is None else {**asdict(report.best), "recipe": str(report.folder / BEST)},
        "trials": [asdict(trial) for trial in report.trials],
    }
    console.result(data, [cells(trial, report) for trial in shown], header(report), title="on validation users")
    console.say(f"all trials: {report.folder / TABLE}")
    if report.best is not None:
        console.say(f"next: delrec-lite train {quote(str(report.folder / BEST))}")
