"""`delrec-lite ablate`: what each part of the method contributes."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, RecipeArgument, RunsOption, SetOption

EXAMPLE = 'Example: `delrec-lite ablate ml-100k-cpu-quick --variant "without soft prompt" --seeds 1,2,3`'


def ablate(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Name of a variant; repeatable. Default: all.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds of both stages, separated by commas; each seed is a separate training.")
    ] = "1",
    changes: SetOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a recipe with one part removed at a time, and compare on the same test split."""
    from delrec_lite.errors import UsageError
    from delrec_lite.evaluation.setting import PROTOCOLS
    from delrec_lite.pipeline.ablate import VARIANTS, cells, header
    from delrec_lite.pipeline.ablate import ablate as run_all
    from delrec_lite.pipeline.overrides import load_changed

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds {seeds!r} is no list of integers", "for example --seeds 1,2,3") from error
    console = make_console(json_output, quiet)
    ablation = run_all(load_changed(recipe, changes), runs, console, tuple(variant or VARIANTS), numbers)
    if json_output:
        console.result([vars(row) for row in ablation.rows])
        return
    setting = ablation.setting
    for protocol in PROTOCOLS:
        rows = [row for row in ablation.rows if row.protocol == protocol]
        if rows:
            over = f"{setting.title(protocol)}, {rows[0].users} {setting.questions()}, {len(numbers)} seeds"
            console.result(None, [cells(row) for row in rows], header(), title=over)
