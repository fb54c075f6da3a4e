"""`delrec-lite report`: a run's figures as one page that loads no other file."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, RunsOption

EXAMPLE = "Example: `delrec-lite report runs/ml-100k-cpu --bench bench.json --out report.html`"


def report(
    run: Annotated[
        str, typer.Argument(help="Folder of a run, or a recipe (its name or path) whose run is in --runs.")
    ] = DEFAULT_RECIPE,
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the run.")] = None,
    bench: Annotated[
        Path | None, typer.Option(help="A report of `bench --out`: accuracy against latency from there, too.")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write one page of a run's figures: accuracy, segments, lists, latency, training curves, recipe, machine.

    `eval` and `quickstart` write it, too. Nothing is computed; a run that is not evaluated yet has its curves alone.
    """
    from delrec_lite.errors import UsageError
    from delrec_lite.pipeline.folder import is_run
    from delrec_lite.report.page import write_page

    console = make_console(json_output, quiet)
    folder = Path(run)
    if not folder.is_dir():
        from delrec_lite.config import load_recipe

        folder = runs / load_recipe(run).name
    if not is_run(folder):
        raise UsageError(f"{folder} is no folder of a run", "give RUNS/NAME, or a recipe whose run is in --runs")
    page = write_page(folder, out, bench)
    console.result({"page": str(page), "bytes": page.stat().st_size} if json_output else str(page))
