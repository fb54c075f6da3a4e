"""`delrec-lite bench`: speed, memory and accuracy of bundles on real requests, and comparison of two reports."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, found, make_console, names_in
from delrec_lite.console import Console
from delrec_lite.runtime.engines.factory import AUTO, ENGINES, LLAMA_CPP, ONNX_RUNTIME

EXAMPLE = (
    "Example: `delrec-lite bench my.delrec --workload cold --threads 1,2 --out now.json`, "
    "then `delrec-lite bench compare before.json now.json`"
)


class Workload(StrEnum):
    """What is timed."""

    cold = "cold"
    rerank = "rerank"
    step = "step"
    batch = "batch"
    load = "load"


class Output(StrEnum):
    """Formats of the result."""

    md = "md"
    json = "json"
    csv = "csv"
    html = "html"


def bench(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Bundle folders or hf://ORG/NAME, timed alternately; or: compare BEFORE AFTER, two reports."
        ),
    ] = None,
    workload: Annotated[
        list[Workload] | None, typer.Option("--workload", "-w", help="Repeatable; default: all.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, such as 1,2; default: the cores allowed.")] = "",
    busy: Annotated[
        str,
        typer.Option(help="Processes that keep a core busy beside what is timed, such as 0,1,2: beside each number."),
    ] = "0",
    repeats: Annotated[int, typer.Option("--repeats", "-r", help="Timed samples of each workload.")] = 20,
    users: Annotated[int, typer.Option(min=0, help="Users in a batch; 0: 64, or all if fewer.")] = 0,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time the same requests through alternatives to this program.")
    ] = False,
    peer_seconds: Annotated[
        float, typer.Option(min=1, help="With --peers: seconds each may compute; its row says what was not finished.")
    ] = 120.0,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure this machine's limits, and compare cold requests with them."),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(ENGINES.built_in)} or an engine of another package; "
            f"{AUTO}: the first installed one that reads the bundle."
        ),
    ] = AUTO,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Time bundles with an item index without it alone; default: without and with it."),
    ] = False,
    quant: Annotated[
        str,
        typer.Option(help="Quantisations to time, such as iq4_mix,q8_0, in bundles with several; default: the first."),
    ] = "",
    dataset: Annotated[
        Path | None,
        typer.Option(help="Prepared data set whose test split is used; default: the bundle's stored requests."),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Format of the result on stdout.")] = Output.md,
    out: Annotated[Path | None, typer.Option(help="Also write the report with raw samples to this JSON file.")] = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(help="The same as `compare BEFORE AFTER`.")] = None,
    threshold: Annotated[float, typer.Option(help="With compare: exit 1 above this ratio of medians.")] = 1.10,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Time real requests through the runtime of `serve`, and measure memory and accuracy."""
    output = Output.json if json_output else output
    console = make_console(output is Output.json, quiet)
    if reports := _reports(bundles or [], compare):
        _compare(reports, threshold, console)
        return
    from delrec_lite.bench import report
    from delrec_lite.bench.plan import Plan
    from delrec_lite.bench.runner import bench as run
    from delrec_lite.machine import cores_allowed

    bundles = [found(bundle, console) for bundle in bundles or []]
    if out is not None:
        _require_writable(out)  # before minutes of timing, not after
    chosen, base = _peers(bundles, console) if peers else ((), {})
    workloads = [w.value for w in workload or Workload]
    counts = _numbers("--threads", threads) or [cores_allowed()]
    beside = _numbers("--busy", busy)
    plan = Plan(
        workloads, counts, repeats, users, chosen, base, roofline, engine, names_in(quant), beside, peer_seconds, exact
    )
    results = run(bundles, plan, dataset, console)
    if out is not None:
        report.write_report(results, out)
    if output is Output.json:
        console.result(results.dump())
    elif output is Output.html:
        from delrec_lite.bench.page import as_html

        console.result(as_html(results))
    else:
        console.result(report.as_csv(results) if output is Output.csv else report.as_markdown(results))


def _reports(bundles: list[Path], compare: tuple[Path, Path] | None) -> tuple[Path, Path] | None:
    """The two reports to compare, from the word `compare` or the option; None if bundles are to be timed."""
    from delrec_lite.errors import UsageError

    has_word = bundles[:1] == [Path("compare")]
    if has_word and compare is None and len(bundles) == 3:
        return bundles[1], bundles[2]
    if has_word or (compare is not None and bundles):
        raise UsageError("compare takes two reports and no bundles", "bench compare BEFORE.json AFTER.json")
    return compare


def _peers(bundles: list[Path], console: Console) -> tuple[tuple[str, ...], dict[str, str]]:
    """The peers that can run here, and the files of their base model; prints the peers left out, with the reason."""
    from importlib.util import find_spec

    from delrec_lite.bench.peers import PEERS, native_bf16
    from delrec_lite.cache_folder import cache_folder
    from delrec_lite.errors import UsageError, install_line
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
    missing = {
        "transformers": "torch is not installed" if not find_spec("torch") else "",
        "optimum": "" if _has_optimum() else f"not installed: {install_line('optimum')}",
        "llama": "" if LLAMA_CPP.installed else f"{LLAMA_CPP.package} is not installed",
        "teacher": "" if Retriever.is_in(bundle) and ONNX_RUNTIME.installed else "no retriever.onnx or onnxruntime",
    }
    if "folder" not in base:
        missing["transformers"] = f"{name} is not unpacked in the cache: delrec-lite train does that"
        missing["optimum"] = missing["optimum"] or missing["transformers"]
    chosen = []
    for peer in PEERS:
        reason = next(reason for start, reason in missing.items() if peer.startswith(start))
        if peer == "transformers bf16" and not native_bf16():
            reason = reason or "bf16 is not native on this CPU"
        if peer == "llama-cpp-python, base" and "gguf" not in base:
            reason = f"no GGUF file of {name} in the cache"
        if peer in {"llama-cpp-python, bundle", "llama.cpp, titles"}:
            reason = reason or ("" if bundle.holds_gguf else "the bundle has no GGUF file")
            reason = reason or ("" if bundle.prompt.format.ranks_catalogue else "the bundle only ranks candidates")
        if reason:
            console.say(f"  {peer} is left out: {reason}")
        else:
            chosen.append(peer)
    return tuple(chosen), base


def _has_optimum() -> bool:
    from importlib.util import find_spec

    return find_spec("optimum") is not None and find_spec("optimum.onnxruntime") is not None


def _require_writable(out: Path) -> None:
    import os

    from delrec_lite.bench.report import REPORT_KEYS
    from delrec_lite.errors import StorageError
    from delrec_lite.files import check_file

    folder = check_file(out, "report of bench", REPORT_KEYS).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise StorageError(
            f"cannot write a file into {folder}", "choose an existing folder with write permission for --out"
        )


def _numbers(option: str, text: str) -> list[int]:
    from delrec_lite.errors import UsageError

    try:
        return [int(part) for part in names_in(text)]
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}", f"give numbers separated by commas: {option} 1,2") from error


def _compare(paths: tuple[Path, Path], threshold: float, console: Console) -> None:
    from dataclasses import asdict

    from delrec_lite.bench import report

    before, after = (report.read_report(path) for path in paths)
    ratios = report.compare_reports(before, after, threshold)
    shown = [
        [
            r.workload,
            r.bundle,
            str(r.threads),
            str(r.busy_processes),
            *(f"{v:.3f}" for v in (r.p50, r.p95, r.rss)),
            "slower" if r.regression else "",
        ]
        for r in ratios
    ]
    header = ("workload", "bundle", "threads", "busy processes", "p50", "p95", "RSS", f"beyond {threshold:.2f}")
    console.result([asdict(r) for r in ratios], shown, header, title="second run over first")
    for line in report.comparison_warnings(before, after):
        console.say(line)
    if any(r.regression for r in ratios):
        raise typer.Exit(1)
