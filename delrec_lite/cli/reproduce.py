"""`delrec-lite reproduce`: makes the committed figures again and compares them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

if TYPE_CHECKING:
    from delrec_lite.bench.reproduction.entries import Plan
    from delrec_lite.bench.reproduction.run import Reproduced
    from delrec_lite.console import Console

EXAMPLE = "Example: `delrec-lite reproduce --list`, then `delrec-lite reproduce accuracy-ml-100k/SASRec`"
# Figures that are shown of a report whose figures all hold.
MOST_SHOWN = 12


def reproduce(
    name: Annotated[str | None, typer.Argument(help="A report, REPORT/ROW, a row that one report has, or all.")] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List reports with minutes and machine, or NAME's rows.")
    ] = False,
    work: Annotated[Path, typer.Option(help="Folder of runs and new reports.")] = Path("runs/reproduced"),
    data: Annotated[
        Path | None, typer.Option(help="Folder with data sets that cannot be fetched: steam, beauty.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Compare this report of NAME instead of measuring.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make the figures of bench/results again, in a checkout, and compare them within their stated tolerances."""
    from delrec_lite.bench.reproduction.entries import read_plan
    from delrec_lite.bench.reproduction.run import choose, compared
    from delrec_lite.bench.reproduction.run import reproduce as measure
    from delrec_lite.errors import DelrecError, UsageError

    console, plan = make_console(json_output, quiet), read_plan()
    if show_list:
        _list(plan, name, data, console)
        return
    if name is None:
        raise UsageError("nothing is named to reproduce", "delrec-lite reproduce --list, then name a report, or all")
    done: list[Reproduced] = []
    chosen = choose(plan, name)
    for entry, row in chosen:
        reason = "" if report else entry.missing(data)
        if reason and len(chosen) > 1:
            console.say(f"{entry.name} is left out: {reason}")
            continue
        done.append(compared(entry, row, report) if report else measure(entry, row, work, data, console))
        if console.mode != "json":
            _show(done[-1], console)
    if console.mode == "json":
        console.result([result.dump() for result in done])
    misses = {result.name: len(result.misses) for result in done if result.misses}
    if misses:
        told = ", ".join(f"{count} of {name}" for name, count in misses.items())
        raise DelrecError(
            f"figures beyond their tolerance: {told}",
            "a slower machine, another processor, or other weights? else file it",
        )


def _show(result: "Reproduced", console: "Console") -> None:
    shown = result.misses or result.figures[:MOST_SHOWN]
    rows = [(f.path, _text(f.committed), _text(f.measured), f.tolerance, "" if f.holds else "beyond") for f in shown]
    console.say(f"{result.name}: committed on {result.committed_on}; measured on {result.measured_on}")
    title = f"{result.name}: {len(result.figures) - len(result.misses)} of {len(result.figures)} figures hold"
    console.result(None, rows, ("figure", "committed", "measured", "tolerance", ""), title=title)


def _text(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "-" if value is None else str(value)


def _list(plan: "Plan", name: str | None, data: Path | None, console: "Console") -> None:
    from delrec_lite.bench.reproduction.entries import RESULTS
    from delrec_lite.bench.reproduction.run import made_on, read_report, rows_in

    if name not in (None, "all"):
        entry = plan.find(str(name))
        for command in entry.commands:
            console.say(f"$ {command}")
        rows = rows_in(entry)
        console.result(rows, [(row,) for row in rows], (f"rows of {entry.name}",))
        return
    listed: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "minutes": entry.minutes,
            "made_on": made_on(read_report(RESULTS / f"{entry.name}.json")),
            "missing": entry.missing(data),
        }
        for entry in plan.entries.values()
    ]
    missing: list[dict[str, Any]] = [
        {"name": recipe, "minutes": None, "made_on": "", "missing": why} for recipe, why in plan.not_measured.items()
    ]
    table = [
        (
            str(row["name"]),
            "not measured" if row["minutes"] is None else f"{row['minutes']}",
            str(row["made_on"]),
            str(row["missing"]),
        )
        for row in [*listed, *missing]
    ]
    console.result([*listed, *missing], table, ("report", "minutes", "made on", "missing here"))
