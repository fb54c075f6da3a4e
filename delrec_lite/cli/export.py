"""`delrec-lite export`: merges, quantises and verifies a trained run, and writes one bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console, names_in
from delrec_lite.cli.options import DEFAULT_RECIPE, DEFAULT_RUNS, RecipeArgument, RunsOption, SetOption
from delrec_lite.quantisations import AUTO, BASELINE, GGUF, ONNX, auto_candidates, help_lines, quantisation_names

if TYPE_CHECKING:
    from delrec_lite.console import Console
    from delrec_lite.pipeline.run import Run

EXAMPLE = f"""Example: `delrec-lite export ml-100k-cpu --quant iq4_mix,q8_0,int8 --out all.delrec`

Quantisations:

{help_lines()}"""


def export(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    quant: Annotated[
        str | None,
        typer.Option(
            help=f"Quantisations separated by commas, a model file each; the first GGUF one is the default. "
            f"GGUF: {', '.join(GGUF.built_in)}; ONNX: {', '.join(ONNX.built_in)}; or {AUTO}; default: the recipe's."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="gguf, onnx or both; default: the formats of --quant, else the recipe's."),
    ] = None,
    onnx_quant: Annotated[
        str | None,
        typer.Option(help=f"Additional quantisations of ONNX files: {', '.join(ONNX.built_in)} or {AUTO}."),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=0, max=100, help="For auto: largest loss of HR@1 on the validation split, in points."),
    ] = 0.5,
    gate: Annotated[bool, typer.Option(help="Refuse a bundle whose scores differ from the trained model's.")] = True,
    out: Annotated[Path | None, typer.Option(help="The bundle; default RUNS/NAME/NAME.delrec.")] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Instead: quantisations separated by commas; write accuracy, size and time of each to --out FILE."
        ),
    ] = None,
    merge_base: Annotated[
        str,
        typer.Option(
            help="dequant or original: the base that an nf4 or int8 adapter is merged onto; default: the recipe's."
        ),
    ] = "",
    changes: SetOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write the bundle of a run; missing stages are trained first."""
    from delrec_lite.bench.quantisations import COMPARED, choose_quant
    from delrec_lite.cache_folder import cache_folder, writable_cache
    from delrec_lite.errors import UsageError, did_you_mean
    from delrec_lite.export.quantisation_choice import store_choice
    from delrec_lite.files import check_file, check_folder
    from delrec_lite.pipeline.bundle import write_bundle
    from delrec_lite.pipeline.model_files import files_for
    from delrec_lite.pipeline.overrides import load_changed
    from delrec_lite.pipeline.run import Run
    from delrec_lite.runtime.manifest import bundle_files

    console = make_console(json_output, quiet)
    bundle_options = {
        "--quant": quant,
        "--format": format_,
        "--onnx-quant": onnx_quant,
        "--no-gate": None if gate else "no",
        "--merge-base": merge_base or None,
    }
    for option, value in bundle_options.items():
        if value is not None and out is None:
            raise UsageError(f"{option} without --out would replace the recipe's own bundle", "add --out NAME.delrec")
    compared_quants = names_in(compare)
    for what, names, allowed in (
        ("quantisation", compared_quants, quantisation_names()),
        ("base to merge onto", [merge_base] if merge_base else [], ("dequant", "original")),
    ):
        for name in names:
            if name not in allowed:
                raise UsageError(f"no {what} {name!r}", did_you_mean(name, allowed))
    loaded = load_changed(recipe, changes)
    files_for(loaded.export, names_in(quant), format_, names_in(onnx_quant))  # an unknown name leaves no folder behind
    if out is not None and compared_quants:  # before hours of training, not after
        check_file(out, "comparison of quantisations", COMPARED)
    elif out is not None:
        check_folder(out, "bundle", bundle_files)
    run = Run(loaded, runs, console)
    if compared_quants:
        _compare(run, compared_quants, out or run.folder / "quantisations.json", console)
        return
    if out is None:
        check_folder(run.bundle, "bundle", bundle_files)
        done = run.export()
        console.result({"bundle": str(run.bundle), **done.result} if json_output else f"{run.bundle}")
        return
    quants, onnx_quants = files_for(run.export_settings, names_in(quant), format_, names_in(onnx_quant))
    rows: list[Any] = []
    for kind, names in (("gguf", quants), ("onnx", onnx_quants)):
        if AUTO in names:
            best, measured = choose_quant(run, auto_candidates(kind), budget / 100)
            rows += [row for row in measured if row.quant not in {earlier.quant for earlier in rows}]
            console.say(f"  auto: {best}")
            times = {row.quant: row.p50_ms for row in measured if row.quant != BASELINE}
            store_choice(best, times, budget / 100, loaded.name, writable_cache(cache_folder()))
            names[:] = dict.fromkeys(best if name == AUTO else name for name in names)
    exported = write_bundle(run, out, quants, onnx_quants, gate, rows, merge_base)
    result = {"bundle": str(out), "bytes": exported.bytes, "quant": exported.quant, "parity": exported.parity.dump()}
    console.result({**result, "models": exported.models} if json_output else f"{out}")


def _compare(run: "Run", quants: list[str], out: Path, console: "Console") -> None:
    from dataclasses import asdict

    from delrec_lite.bench.quantisations import METRICS, compare_quants

    protocols = ("expected_sampled", "full")
    rows = compare_quants(run, quants, out)
    header = (
        "format",
        "quant",
        "MB",
        "p50 ms",
        *(run.setting.metric(name, protocol) for protocol in protocols for name in METRICS),
        f"top 10 as {BASELINE}",
    )
    cells = [
        (
            row.format,
            row.quant,
            f"{row.bytes / 1e6:.1f}",
            f"{row.p50_ms:.1f}",
            *(f"{row.metrics[protocol][metric]:.3f}" for protocol in protocols for metric in METRICS),
            f"{row.top10_overlap:.1%}",
        )
        for row in rows
    ]
    console.result([asdict(row) for row in rows], cells, header)
    console.say(f"raw ranks and samples: {out}")
