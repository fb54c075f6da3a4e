"""`delrec-lite verify`: checks that a bundle is unchanged since its export."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite verify my.delrec`"


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder, NAME.delrec.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores allowed.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Hash its files, open its models, run its stored requests and compare with the stored answers."""
    from delrec_lite.runtime.verify import verify as check

    console = make_console(json_output, quiet)
    report = check(bundle, threads)
    gate = "compared with the trained model" if report.gated else "NOT compared with the trained model"
    unopened = [f"{file} not: {reason}" for file, reason in report.unopened.items()]
    rows = [
        ("models", "; ".join([f"{', '.join(report.models)} opened", *unopened])),
        ("files", f"{report.files}, {report.bytes / 1e6:.0f} MB, as exported"),
        ("stored requests", f"{report.requests} answered, {report.top10_overlap:.1%} of the first ten the same"),
        ("scores", f"within {report.largest_difference:.3f} of those stored"),
        ("at export", gate),
    ]
    console.result(report.dump(), rows, (report.name, "verified"))
