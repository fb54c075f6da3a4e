"""`delrec-lite verify`: is a bundle what was exported?"""

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
    """Hash its files, open its models, ask its stored requests and compare with the stored answers."""
    from delrec_lite.runtime.verify import verify as check

    console = make_console(json_output, quiet)
    found = check(bundle, threads)
    gate = "compared with the trained model" if found.gated else "NOT compared with the trained model"
    opened = "; ".join([f"{', '.join(found.models)} opened", *(f"{f} not: {why}" for f, why in found.unopened.items())])
    rows = [
        ("models", opened),
        ("files", f"{found.files}, {found.bytes / 1e6:.0f} MB, as exported"),
        ("stored requests", f"{found.requests} answered, {found.top10_overlap:.1%} of the first ten the same"),
        ("scores", f"within {found.largest_difference:.3f} of those stored"),
        ("at export", gate),
    ]
    console.result(found.dump(), rows, (found.name, "verified"))
