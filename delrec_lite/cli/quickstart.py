"""`delrec-lite quickstart`: all steps from a ratings log to a recommendation by a quantised model."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console, names_in
from delrec_lite.cli.options import (
    DEFAULT_RECIPE,
    DEFAULT_RUNS,
    FreshFlag,
    LogOption,
    RecipeArgument,
    RunsOption,
    SetOption,
    ZeroShotFlag,
)

EXAMPLE = "Example: `delrec-lite quickstart`, or `delrec-lite quickstart ml-100k-cpu-quick` to train in ten minutes"


def quickstart(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    changes: SetOption = None,
    log: LogOption = "",
    runs: RunsOption = DEFAULT_RUNS,
    train: Annotated[
        bool, typer.Option("--train", help="Train on this machine instead of using the trained weights in the package.")
    ] = False,
    zero_shot: ZeroShotFlag = False,
    fresh: FreshFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Pull, prepare, teacher, stage 1, stage 2, export, recommend, evaluate: DELRec on real data."""
    from delrec_lite.pipeline.overrides import load_changed
    from delrec_lite.pipeline.quickstart import quickstart as run_all
    from delrec_lite.pipeline.trackers import parse_trackers, tracked

    loaded, trackers = load_changed(recipe, changes), parse_trackers(names_in(log))
    console = make_console(json_output, quiet)
    with tracked(loaded, runs, trackers, console):
        run_all(loaded, runs, console, fresh, train, zero_shot)
