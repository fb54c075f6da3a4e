"""Options that several verbs share, and their console."""

import logging
from typing import Annotated

import typer

from delrec_lite.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuantOption = Annotated[
    str | None, typer.Option("--quant", help="Quantisation, of a bundle with several; default: the first.")
]
FusedFlag = Annotated[
    bool, typer.Option("--fused", help="Combine with the teacher's scores; the weight was chosen on validation users.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def names_in(text: str | None) -> list[str]:
    """The parts of a comma-separated value; empty for an empty value."""
    return [part.strip() for part in text.split(",")] if text else []


def make_console(json_output: bool = False, quiet: bool = False) -> Console:
    """The console of a command; where it is quiet, so are the library's warnings."""
    logging.getLogger("delrec_lite").setLevel(logging.ERROR if quiet and not json_output else logging.NOTSET)
    return Console("json" if json_output else "quiet" if quiet else "human")
