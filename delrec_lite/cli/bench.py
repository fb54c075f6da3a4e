"""`delrec-lite bench`: how fast, how large and how accurate bundles are on real requests; and two runs compared."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console, names_in
from delrec_lite.console import Console
from delrec_lite.runtime.engines.factory import AUTO, ENGINES, LLAMA_CPP, ONNX_RUNTIME

EXAMPLE = (
    "Example: `delrec-lite bench my.delrec --workload cold --threads 1,2 --out now.json`, "
    "then `delrec-lite bench compare before.json now.json`"
)


class Workload(StrEnum):
    """What can be timed."""

    cold = "cold"
    rerank = "rerank"
    step = "step"
    batch = "batch"
    load = "load"


class Output(StrEnum):
    """Forms of the result."""

    md = "md"
    json = "json"
    csv = "csv"
    html = "html"


def bench(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundle folders, timed in turn; or: compare BEFORE AFTER, two reports.")
    ] = None,
    workload: Annotated[
        list[Workload] | None, typer.Option("--workload", "-w", help="Repeat it; default: all.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, such as 1,2; default: the cores allowed.")] = "",
    repeats: Annotated[int, typer.Option("--repeats", "-r", help="Timed samples of each.")] = 20,
    users: Annotated[int, typer.Option(min=0, help="Users in a batch; 0: 64, or all if fewer.")] = 0,
    peers: Annotated[
        bool, typer.Option("--peers", help="The same requests through what people would use instead, in turn.")
    ] = False,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure this machine's ceilings, and how far cold requests are from them."),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(ENGINES.built_in)} or one that another package installs; "
            f"{AUTO}: the first that reads the bundle and is installed."
        ),
    ] = AUTO,
    quant: Annotated[
        str,
        typer.Option(help="Quantisations of bundles that hold several, such as iq4_mix,q8_0; default: their first."),
    ] = "",
    dataset: Annotated[
        Path | None, typer.Option(help="Prepared data set whose test split asks; default: the bundle's requests.")
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the result on stdout.")] = Output.md,
    out: Annotated[Path | None, typer.Option(help="Also write the report with raw samples here, as JSON.")] = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(help="The same as `compare BEFORE AFTER`.")] = None,
    threshold: Annotated[float, typer.Option(help="With compare: exit 1 above this ratio of medians.")] = 1.10,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Time real requests through the runtime that serves, and measure memory and accuracy beside it."""
    output = Output.json if json_output else output
    console = make_console(output is Output.json, quiet)
    if reports := _reports(bundles or [], compare):
        _compare(reports, threshold, console)
        return
    from delrec_lite.bench import report
    from delrec_lite.bench.runner import Plan
    from delrec_lite.bench.runner import bench as run

    if out is not None:
        _must_be_writable(out.parent)  # before minutes of timing, not after
    chosen, base = _peers(bundles or [], console) if peers else ((), {})
    workloads = [w.value for w in workload or Workload]
    plan = Plan(workloads, _threads(threads), repeats, users, chosen, base, roofline, engine, names_in(quant))
    found = run(bundles or [], plan, dataset, console)
    if out is not None:
        report.write_report(found, out)
    if output is Output.json:
        console.result(found.dump())
    elif output is Output.html:
        from delrec_lite.bench.page import as_html

        console.result(as_html(found))
    else:
        console.result(report.as_csv(found) if output is Output.csv else report.as_markdown(found))


def _reports(bundles: list[Path], compare: tuple[Path, Path] | None) -> tuple[Path, Path] | None:
    """The two reports to compare, asked for by word or by option; None where bundles are to be timed."""
    from delrec_lite.errors import UsageError

    by_word = bundles[:1] == [Path("compare")]
    if by_word and compare is None and len(bundles) == 3:
        return bundles[1], bundles[2]
    if by_word or (compare is not None and bundles):
        raise UsageError("a comparison takes two reports and times nothing", "bench compare BEFORE.json AFTER.json")
    return compare


def _peers(bundles: list[Path], console: Console) -> tuple[tuple[str, ...], dict[str, str]]:
    """The peers that can be asked here, and where their base model lies; says what is left out and why."""
    from importlib.util import find_spec

    from delrec_lite.bench.peers import PEERS
    from delrec_lite.errors import UsageError, install_line
    from delrec_lite.files import cache_folder
    from delrec_lite.runtime.bundle import Bundle
    from delrec_lite.runtime.retriever import Retriever

    if not bundles:
        raise UsageError("no bundle to time", "give one or more bundle folders")
    bundle = Bundle.open(bundles[0])
    name, base = bundle.manifest["model"].get("base", ""), dict[str, str]()
    if (folder := cache_folder() / f"{name}-bf16").is_dir():
        base |= {"folder": str(folder), "onnx": str(cache_folder() / f"{name}-onnx")}
    if ggufs := sorted((cache_folder() / "models" / name).glob("*.gguf")):
        base["gguf"] = str(ggufs[0])
    lacks = {
        "transformers": "torch is not installed" if not find_spec("torch") else "",
        "optimum": "" if _optimum_is_here() else f"not installed: {install_line('optimum')}",
        "llama": "" if LLAMA_CPP.installed else f"{LLAMA_CPP.package} is not installed",
        "teacher": "" if Retriever.held(bundle) and ONNX_RUNTIME.installed else "no retriever.onnx or onnxruntime",
    }
    if "folder" not in base:
        lacks["transformers"] = f"{name} is not unpacked in the cache: delrec-lite train does that"
        lacks["optimum"] = lacks["optimum"] or lacks["transformers"]
    chosen = []
    for peer in PEERS:
        why = next(reason for start, reason in lacks.items() if peer.startswith(start))
        if peer == "llama-cpp-python, base" and "gguf" not in base:
            why = f"no GGUF file of {name} in the cache"
        if peer in {"llama-cpp-python, bundle", "llama.cpp, titles"}:
            why = "" if bundle.holds_gguf else "the bundle holds no GGUF file"
            why = why if bundle.prompt.format.ranks_catalogue else "the bundle ranks candidates alone"
        if why:
            console.say(f"  {peer} is left out: {why}")
        else:
            chosen.append(peer)
    return tuple(chosen), base


def _optimum_is_here() -> bool:
    from importlib.util import find_spec

    return find_spec("optimum") is not None and find_spec("optimum.onnxruntime") is not None


def _must_be_writable(folder: Path) -> None:
    import os

    from delrec_lite.errors import StorageError

    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise StorageError(f"cannot write a file into {folder}", "choose a folder that exists and is yours for --out")


def _threads(text: str) -> list[int]:
    from delrec_lite.errors import UsageError
    from delrec_lite.machine import cores_allowed

    try:
        return [int(part) for part in names_in(text)] or [cores_allowed()]
    except ValueError as error:
        raise UsageError(f"--threads is {text!r}", "numbers with commas between them: --threads 1,2") from error


def _compare(paths: tuple[Path, Path], threshold: float, console: Console) -> None:
    from dataclasses import asdict

    from delrec_lite.bench import report

    before, after = (report.read_report(path) for path in paths)
    ratios = report.compare(before, after, threshold)
    shown = [
        [
            r.workload,
            r.bundle,
            str(r.threads),
            *(f"{v:.3f}" for v in (r.p50, r.p95, r.rss)),
            "slower" if r.regression else "",
        ]
        for r in ratios
    ]
    header = ("workload", "bundle", "threads", "p50", "p95", "RSS", f"beyond {threshold:.2f}")
    console.result([asdict(r) for r in ratios], shown, header, title="second run over first")
    for line in report.left_out(before, after):
        console.say(line)
    if any(r.regression for r in ratios):
        raise typer.Exit(1)
