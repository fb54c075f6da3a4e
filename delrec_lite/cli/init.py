"""`delrec-lite init`: writes a recipe for a data set, a base and a card, from options or prompts."""

import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite init shop --data data/shop --domain item`"


def init(
    name: Annotated[str | None, typer.Argument(help="Name of the recipe, its runs and its bundle.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder written by `delrec-lite prepare`, or a data set to pull; default data/NAME."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="What an item is: movie, game, artist, item, or any noun with --verb.")
    ] = None,
    verb: Annotated[
        str | None, typer.Option(help="What people have done with an item, such as read; default: the domain's verb.")
    ] = None,
    base: Annotated[str, typer.Option(help="The LLM: a name to pull, a folder, a .gguf file or a Hub id.")] = "",
    gpu: Annotated[str, typer.Option(help="Memory of the card to train on, such as 12GB; default: two cores.")] = "",
    out: Annotated[Path | None, typer.Option(help="The file to write; default NAME.yaml.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a recipe sized for an hour on two cores, or for a card. Prompts for missing options.

    Minutes are counted for the base and the layers of the recipe.
    """
    from delrec_lite.errors import UsageError
    from delrec_lite.pipeline.start import start_recipe
    from delrec_lite.prompts.domain import DOMAINS

    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    if name is None:
        if not interactive:
            raise UsageError("the recipe has no name", "delrec-lite init shop --data data/shop")
        name = typer.prompt("Name of the recipe", err=True)
    folder = data or Path("data") / str(name)
    if data is None and interactive:
        folder = Path(typer.prompt("Prepared data set", default=str(folder), err=True))
    if domain is None and interactive:
        domain = str(typer.prompt("What is an item (movie, game, artist, item, or a word)", default="item", err=True))
        if verb is None and domain not in DOMAINS:
            verb = str(typer.prompt("What have people done with it, such as read or bought", err=True))
    console = make_console(json_output, quiet)
    recipe = start_recipe(str(name), folder, domain, base, out or Path(f"{name}.yaml"), gpu, console, verb)
    console.say(f"  {recipe.summary}")
    console.say(f"  next: delrec-lite quickstart {quote(str(recipe.path))}")
    console.result({"path": str(recipe.path), "minutes": recipe.minutes} if json_output else str(recipe.path))
