"""`delrec-lite train`: fit the teacher, distil it into the soft prompt, fine-tune the LLM."""

from enum import StrEnum
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, FreshFlag, RecipeArgument, RunsOption

EXAMPLE = "Example: `delrec-lite train ml-100k-cpu --stage distill`"


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
    runs: RunsOption = DEFAULT_RUNS,
    fresh: FreshFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train up to a stage; finished stages are reused, an interrupted stage resumes from its checkpoint.

    With `accelerate launch` or `torchrun`, all processes share each step of stages 1 and 2.
    """
    from delrec_lite.config import load_recipe
    from delrec_lite.pipeline.run import Run
    from delrec_lite.processes import join
    from delrec_lite.report.page import page_or_reason

    loaded = load_recipe(recipe)
    first = join(loaded.model.device).first
    console = make_console(json_output and first, quiet or not first)
    run = Run(loaded, runs, console, fresh, shipped=False)
    done = getattr(run, stage.value)()
    if first:
        page_or_reason(run.folder, console)
    data = {name: {"folder": str(s.folder), "seconds": s.seconds, **s.result} for name, s in run.stages.items()}
    console.result(data if json_output else f"{done.folder}")
