"""`delrec-lite export`: merge, bake, quantise and prove; one bundle."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, RecipeArgument, RunsOption

EXAMPLE = "Example: `delrec-lite export ml-100k-cpu --quant q8_0 --out big.delrec`"


def export(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    quant: Annotated[str | None, typer.Option(help="iq4_nl, q4_0, q8_0, f16 or bf16; default: the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The bundle; default RUNS/NAME/NAME.delrec.")] = None,
    merge_base: Annotated[
        str, typer.Option(help="dequant or original: what an nf4 or int8 adapter goes onto; default: the recipe's.")
    ] = "",
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the bundle of a trained run; what is not trained yet is trained first."""
    from delrec_lite.config import load_recipe
    from delrec_lite.errors import UsageError
    from delrec_lite.export.quantise import QUANTS
    from delrec_lite.pipeline.run import Run

    console = make_console(json_output, quiet)
    if quant is not None and out is None:
        raise UsageError("--quant without --out would replace the recipe's own bundle", "add --out NAME.delrec")
    if quant is not None and quant not in QUANTS:
        raise UsageError(f"no quantisation {quant!r}", f"one of {', '.join(QUANTS)}")
    if merge_base not in {"", "dequant", "original"}:
        raise UsageError(f"no base {merge_base!r} to merge onto", "dequant or original")
    if merge_base and out is None:
        raise UsageError("--merge-base without --out would replace the recipe's own bundle", "add --out NAME.delrec")
    read = load_recipe(recipe)
    run = Run(read, runs, console)
    if quant is None and out is None:
        done = run.export()
        console.result({"bundle": str(run.bundle), **done.result} if json_output else f"{run.bundle}")
        return
    assert out is not None
    made = run.write_bundle(out, quant or read.export.quant, merge_base)
    result = {"bundle": str(out), "bytes": made.bytes, "quant": quant or read.export.quant}
    console.result({**result, "parity": made.parity.dump()} if json_output else f"{out}")
