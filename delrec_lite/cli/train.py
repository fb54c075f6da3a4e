"""`delrec-lite train`: fit the teacher, distil it into the soft prompt, fine-tune the LLM; or a sweep of such runs."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

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
)

if TYPE_CHECKING:
    from delrec_lite.console import Console
    from delrec_lite.pipeline.sweep import Trial

EXAMPLE = (
    "Example: `delrec-lite train ml-100k-cpu --stage distill`, or a sweep: "
    "`delrec-lite train ml-100k-cpu --set finetune.lr=5e-4,1e-3 --set finetune.seed=1,2 --log tensorboard`"
)


class Stage(StrEnum):
    """Stages of training, in order."""

    teacher = "teacher"
    distill = "distill"
    finetune = "finetune"


def train(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    stage: Annotated[
        Stage, typer.Option(help="The last stage to run; earlier stages run if they are not finished.")
    ] = (Stage.finetune),
    changes: SetOption = None,
    log: LogOption = "",
    runs: RunsOption = DEFAULT_RUNS,
    fresh: FreshFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train up to a stage; finished stages are reused, an interrupted stage resumes from its checkpoint.

    A key with several values in `--set` is a sweep: every combination is trained and compared on validation users.
    With `accelerate launch` or `torchrun`, all processes share each step of stages 1 and 2.
    """
    from delrec_lite.pipeline.overrides import grid, parse_sets
    from delrec_lite.pipeline.run import Run
    from delrec_lite.pipeline.sweep import sweep
    from delrec_lite.pipeline.trackers import parse_trackers, tracked
    from delrec_lite.processes import join
    from delrec_lite.report.page import page_or_reason

    recipes = list(grid(recipe, parse_sets(changes or ())))
    loaded, swept = recipes[0]
    trackers = parse_trackers(names_in(log))
    first = join(loaded.model.device).first
    console = make_console(json_output and first, quiet or not first)
    if swept:
        folder = runs / f"{loaded.name}-sweep"
        trials = sweep(
            recipes,
            runs,
            console,
            stage.value,
            fresh,
            lambda run: tracked(run.recipe, folder, trackers, console, folder.name),
        )
        _show(trials, console)
        return
    run = Run(loaded, runs, console, fresh, shipped=False)
    with tracked(run.recipe, runs, trackers, console):
        done = getattr(run, stage.value)()
    if first:
        page_or_reason(run.folder, console)
    data = {name: {"folder": str(s.folder), "seconds": s.seconds, **s.result} for name, s in run.stages.items()}
    console.result(data if json_output else f"{done.folder}")


def _show(trials: "Sequence[Trial]", console: "Console") -> None:
    from delrec_lite.errors import DelrecError
    from delrec_lite.pipeline.sweep import best_of, cells, header

    rows = [cells(trial, trials) for trial in trials]
    console.result([asdict(trial) for trial in trials], rows, header(trials), title="on validation users")
    if best := best_of(trials):
        console.say(f"best by {best.decides}: {best.folder}")
    if failed := [trial for trial in trials if trial.error]:
        raise DelrecError(
            f"{len(failed)} of {len(trials)} trials failed, the first is {failed[0].folder}: {failed[0].error}",
            "change its values; the others are finished and not trained again",
        )
