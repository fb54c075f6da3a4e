"""`delrec-lite feedback report`: what people did with the lists that a server gave them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

if TYPE_CHECKING:
    from delrec_lite.console import Console
    from delrec_lite.evaluation.proportions import Share
    from delrec_lite.server.feedback.report import Comparison, Report

EXAMPLE = "Example: `delrec-lite feedback report shop.sqlite --plot clicks.svg`"
# Ranks in the table; --json has all.
MOST_RANKS = 10
feedback = typer.Typer(no_args_is_help=True, help="Read the log that `serve --feedback-log` writes.")


@feedback.callback()
def _group() -> None:
    """Read the log that `serve --feedback-log` writes."""


@feedback.command(epilog=EXAMPLE)
def report(
    log: Annotated[Path, typer.Argument(help="The SQLite file of `serve --feedback-log`.")],
    event: Annotated[str, typer.Option(help="The kind of event that counts as success.")] = "click",
    plot: Annotated[Path | None, typer.Option(help="Write the share by rank as a picture, FILE.svg.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Clicks by rank, coverage of the catalogue, events a list; A against B, where two bundles share the traffic."""
    from delrec_lite.server.feedback.report import report as read

    console = make_console(json_output, quiet)
    found = read(log, event)
    if plot is not None:
        from delrec_lite.server.feedback.chart import write_chart

        write_chart(found, plot)
    if json_output:
        console.result(asdict(found))
        return
    _print(console, found)


def _print(console: "Console", report: "Report") -> None:
    if not report.bundles:
        console.result("no list was served yet")
        return
    header = ("bundle", "lists", "callers", f"with a {report.event}", "items served", "of the catalogue")
    rows = [
        (
            bundle.bundle,
            str(bundle.lists),
            str(bundle.callers),
            _share(bundle.clicked),
            str(bundle.served),
            "-" if bundle.coverage is None else f"{bundle.coverage:.1%}",
        )
        for bundle in report.bundles
    ]
    console.result(None, rows, header)
    ranks = range(min(MOST_RANKS, max(len(bundle.by_rank) for bundle in report.bundles)))
    table = [
        (str(rank + 1), *(_share(b.by_rank[rank]) if rank < len(b.by_rank) else "-" for b in report.bundles))
        for rank in ranks
    ]
    console.result(None, table, ("rank", *(b.bundle for b in report.bundles)), f"share of lists with a {report.event}")
    events = [
        (bundle.bundle, kind, str(count.count), f"{count.per_list:.3f}", str(count.lists), f"{count.value:g}")
        for bundle in report.bundles
        for kind, count in bundle.events.items()
    ]
    if events:
        console.result(None, events, ("bundle", "event", "count", "a list", "lists with one", "sum of values"))
    if report.comparison is not None:
        _print_comparison(console, report.comparison)


def _print_comparison(console: "Console", comparison: "Comparison") -> None:
    rows = [
        (side.arm, ", ".join(side.bundles), str(side.callers), _share(side.clicked))
        for side in (comparison.a, comparison.b)
    ]
    console.result(None, rows, ("arm", "bundle", "callers", "lists with one"), "A against B")
    found = comparison.difference
    if found is None:
        console.result("one of the two has no list yet")
        return
    console.result(
        f"B less A: {100 * found.difference:+.2f} points, 95% interval {100 * found.low:+.2f} to "
        f"{100 * found.high:+.2f}, p = {found.p:.3g} ({found.method}). Data of this size show a true difference of "
        f"{100 * found.detectable:.2f} points in 80 of 100 cases."
    )
    if max(len(comparison.a.bundles), len(comparison.b.bundles)) > 1:
        console.result("A bundle was replaced meanwhile: the comparison mixes its versions.")
    console.result(comparison.note)


def _share(share: "Share") -> str:
    return f"{share.share:.2%} ({share.low:.2%} to {share.high:.2%})"
